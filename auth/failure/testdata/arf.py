"""Reads reports, one a line in base64, and says in JSON what is in them.

Everything is taken apart by Python's email package with its strict policy, and the fields of the second part are held
against RFC 5965, section 3, RFC 6591, section 3, and RFC 9991, section 4. "faults" must be empty.
"""
import base64
import email
import email.policy
import email.utils
import ipaddress
import json
import re
import sys

ONCE = """feedback-type user-agent version arrival-date incidents original-envelope-id original-mail-from reporting-mta
source-ip source-port auth-failure delivery-result identity-alignment dkim-domain dkim-identity dkim-selector
spf-dns""".split()
MANY = "authentication-results original-rcpt-to reported-domain reported-uri".split()
NEEDED = """feedback-type user-agent version auth-failure authentication-results original-mail-from source-ip
reported-domain identity-alignment""".split()

DOMAIN = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
GRAMMAR = {
    "feedback-type": r"auth-failure",
    "version": r"1",
    "user-agent": r"[\x21-\x7e]+( [\x21-\x7e]+)*",
    "auth-failure": r"adsp|bodyhash|revoked|signature|spf|dmarc",
    "delivery-result": r"delivered|spam|policy|reject|other",
    "identity-alignment": r"none|(dkim|spf)(\s*,\s*(dkim|spf))?",
    "incidents": r"[1-9][0-9]*",
    "original-mail-from": r"<[^<>\s]+@[^<>\s]+>|<>",
    "reported-domain": DOMAIN,
    "reporting-mta": r"dns;\s*" + DOMAIN,
    "source-port": r"[1-9][0-9]*",
    "dkim-domain": DOMAIN,
    "dkim-identity": r"[^@\s]*@" + DOMAIN,
    "dkim-selector": DOMAIN,
    "spf-dns": r"(txt|spf)\s*:\s*" + DOMAIN + r'\s*:\s*"([^"\\]|\\.)*"',
}


def judge_fields(fields, faults):
    names = [name.lower() for name in fields.keys()]
    for name in NEEDED:
        if name not in names:
            faults.append("no " + name)
    for name in set(names):
        if name not in ONCE and name not in MANY:
            faults.append("unknown field " + name)
        if name in ONCE and names.count(name) > 1:
            faults.append("%s more than once" % name)
    for name, value in fields.items():
        value = re.sub(r"\r?\n", "", str(value)).strip()
        pattern = GRAMMAR.get(name.lower())
        if pattern and not re.fullmatch(pattern, value):
            faults.append("%s: %r" % (name, value))
    if "dkim-domain" in names and ("dkim-identity" not in names or "dkim-selector" not in names):
        faults.append("DKIM-Domain alone")
    if "source-ip" in names:
        ipaddress.ip_address(str(fields["Source-IP"]).strip())
    if "arrival-date" in names and email.utils.parsedate_to_datetime(str(fields["Arrival-Date"])) is None:
        faults.append("Arrival-Date")


def judge(raw):
    faults = []
    for line in raw.split(b"\r\n"):
        if len(line) > 998:
            faults.append("a line of %d octets" % len(line))
        if re.search(rb"[^\t\x20-\x7e]", line):
            faults.append("not ASCII: %r" % line)
    message = email.message_from_bytes(raw, policy=email.policy.SMTP)
    for entity in message.walk():
        faults += [repr(d) for d in entity.defects]
        for name, value in entity.items():
            faults += ["%s: %r" % (name, d) for d in getattr(value, "defects", ())]
    for name in "From To Date Subject Message-ID MIME-Version Content-Type Auto-Submitted".split():
        if len(message.get_all(name, [])) != 1:
            faults.append("%s: not exactly one" % name)
    if message.get_content_type() != "multipart/report" or message.get_param("report-type") != "feedback-report":
        faults.append("type " + str(message["Content-Type"]))
    if message["Auto-Submitted"] == "no":
        faults.append("not marked as automatic")
    parts = message.get_payload() if message.is_multipart() else []
    types = [p.get_content_type() for p in parts]
    if types != ["text/plain", "message/feedback-report", "text/rfc822-headers"]:
        return {"faults": faults + ["parts %r" % types]}
    feedback = parts[1].get_payload()
    fields = feedback[0] if isinstance(feedback, list) else email.message_from_string(feedback, policy=email.policy.SMTP)
    if fields.get_payload():
        faults.append("text behind the fields: %r" % fields.get_payload())
    judge_fields(fields, faults)
    return {
        "faults": faults,
        "to": str(message["To"]),
        "from": str(message["From"]),
        "subject": str(message["Subject"]),
        "text": parts[0].get_content(),
        "fields": [[k, re.sub(r"\r?\n", "", str(v))] for k, v in fields.items()],
        "header": base64.b64encode(parts[2].get_payload(decode=True)).decode(),
    }


for line in sys.stdin:
    print(json.dumps(judge(base64.b64decode(line))), flush=True)
