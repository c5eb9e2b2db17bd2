# Reads a report from standard input with nothing but Python's own libraries, and prints what it says.
import email
import email.policy
import gzip
import sys
import xml.etree.ElementTree as tree

message = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
if message.defects:
    sys.exit("defects: %r" % message.defects)
print("from", message["from"])
print("to", message["to"])
print("subject", message["subject"])
attachments = list(message.iter_attachments())
for part in attachments:
    print("attachment", part.get_content_type(), part.get_filename())
root = tree.fromstring(gzip.decompress(attachments[0].get_content()))


def show(node, depth):
    name = node.tag.replace("{urn:ietf:params:xml:ns:dmarc-2.0}", "")
    text = (node.text or "").strip()
    print("  " * depth + name, text) if text else print("  " * depth + name)
    for child in node:
        show(child, depth + 1)


show(root, 0)
