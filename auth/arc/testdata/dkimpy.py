"""Verifies and seals messages with dkimpy: one JSON object a line in, one out."""

import base64
import json
import sys

import dkim


def answer(q):
    message = base64.b64decode(q["message"])
    if q["do"] == "seal":
        lines = dkim.arc_sign(
            message, q["selector"].encode(), q["domain"].encode(), q["key"].encode(), q["id"].encode(),
            timestamp=q["time"])
        return {"set": base64.b64encode(b"".join(lines)).decode()}
    if q["do"] == "sign":
        header, body = q["canon"].split("/")
        line = dkim.sign(
            message, q["selector"].encode(), q["domain"].encode(), q["key"].encode(),
            canonicalize=(header.encode(), body.encode()), signature_algorithm=q["algorithm"].encode())
        return {"set": base64.b64encode(line).decode()}
    names = {name.encode() + b".": text.encode() for name, text in q["keys"].items()}
    value, sets, reason = dkim.arc_verify(message, dnsfunc=lambda name, timeout=5: names.get(name))
    return {
        "value": "marked" if value is None else value.decode(),
        "reason": str(reason),
        "messages": {str(s["instance"]): s["ams-valid"] for s in sets},
    }


for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except dkim.DKIMException as e:
        reply = {"error": repr(e)}
    print(json.dumps(reply), flush=True)
