"""Reads what a tap writes, and removes what was read, until standard input ends.

Says for each message its id and the outcome for its first recipient, and at last
how much the directory held at most. The arguments are the directory, and after how
many messages a pause is made.
"""

import json
import os
import select
import sys
import time

directory, pause = sys.argv[1], int(sys.argv[2])
block = 4096
peak = 0
count = 0


def held():
    sizes = {}  # one that is renamed meanwhile may be seen twice
    for entry in os.scandir(directory):
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        sizes[stat.st_ino] = -(-stat.st_size // block) * block
    return sum(sizes.values())


def read(name):
    global count
    path = os.path.join(directory, name)
    with open(path, encoding="utf-8") as f:
        envelope = json.load(f)
    text = os.path.join(directory, envelope["file"])
    with open(text, "rb") as f:
        body = f.read()
    if len(body) != envelope["octets"] or not body.endswith(b"\r\n"):
        sys.exit(f"{name}: {len(body)} octets of {envelope['octets']}")
    id = body.split(b"X-Refpeer-ID: ", 1)[1].split(b"\r\n", 1)[0].decode()
    print(id, envelope["recipients"][0]["outcome"], flush=True)
    os.remove(path)
    os.remove(text)
    count += 1
    if count % pause == 0:
        time.sleep(0.3)


last = False
while True:
    peak = max(peak, held())
    names = sorted(n for n in os.listdir(directory) if n.endswith(".json") and not n.startswith("."))
    for name in names:
        read(name)
    if names:
        continue
    if last:
        break
    last = bool(select.select([sys.stdin], [], [], 0.01)[0])
print("peak", peak, flush=True)
