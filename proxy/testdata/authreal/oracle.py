"""Signs, judges and reads mail with dkimpy, pyspf, dnspython and authres: one JSON object a line in, one out.

Its arguments are the address and the port of the name server that all of them ask.
"""

import base64
import email
import ipaddress
import json
import sys
import time

import authres
import authres.arc
import authres.dkim_b
import authres.dmarc
import dkim
import dns.exception
import dns.resolver
import dns.reversename
import spf

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = [sys.argv[1]], int(sys.argv[2])
dns.resolver.default_resolver = resolver  # what pyspf asks

keys = {}  # private keys by selector, as dkimpy wants them


class Unanswered(Exception):
    """Nobody knows what stands at a name."""


def txt(name, timeout=5):
    """The one TXT record at a name, for dkimpy; None: there is none."""
    try:
        answer = resolver.resolve(name.decode(), "TXT", lifetime=timeout)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.NoMetaqueries):
        return None
    except dns.exception.DNSException as e:
        raise Unanswered(e) from e
    return b"".join(list(answer)[0].strings)


class Signer(dkim.DKIM):
    """dkimpy's, with tags that it would not write; those of an empty value are left out."""

    tags = {}

    def gen_header(self, fields, include_headers, *rest):
        names = [name for name, _ in fields]
        for name, value in self.tags.items():
            name, value = name.encode(), value.encode()
            if name in names:
                fields[names.index(name)] = (name, value)
            else:
                fields.insert(1, (name, value))
        fields[:] = [f for f in fields if f[1]]
        if "h" in self.tags:
            include_headers = [h.strip().encode() for h in self.tags["h"].split(":")]
        return super().gen_header(fields, include_headers, *rest)


def sign(message, s):
    selector = s["selector"]
    canon = tuple(word.encode() for word in s.get("canon", "relaxed/relaxed").split("/"))
    d = Signer(message, signature_algorithm=b"ed25519-sha256" if selector == "ed" else b"rsa-sha256")
    d.tags = s.get("tags") or {}
    line = d.sign(selector.encode(), s["domain"].encode(), keys.get(selector, keys["rsa"]), canonicalize=canon,
                  length=s.get("length", False))
    return line + message


def seal(message, s):
    """Puts a set on top, and takes off the results that it was made from: they were the sealer's."""
    id = s["id"].encode()
    results = b"Authentication-Results: " + id + b"; " + s["results"].encode() + b"\r\n"
    lines = dkim.arc_sign(results + message, s["selector"].encode(), s["domain"].encode(), keys["rsa"], id,
                          timestamp=str(int(time.time())))
    if not lines:
        raise ValueError("dkimpy does not seal")
    return b"".join(lines) + message


def compose(q):
    message = base64.b64decode(q.get("message", ""))
    for s in q.get("steps") or []:
        do = s["do"]
        if do == "sign":
            message = sign(message, s)
        elif do == "seal":
            message = seal(message, s)
        elif do == "top":
            message = s["new"].encode("utf-8", "surrogateescape") + message
        elif do == "end":
            message += s["new"].encode()
        elif do == "replace":
            old = s["old"].encode()
            if message.count(old) < 1:
                raise ValueError("no %r" % old)
            message = message.replace(old, s["new"].encode(), 1)
        else:
            raise ValueError(do)
    return {"message": base64.b64encode(message).decode()}


def judge_dkim(message):
    """What dkimpy says of each signature: pass, temperror, or fail for all else that it tells apart."""
    out = []
    d = dkim.DKIM(message)
    for i in range(sum(1 for name, _ in d.headers if name.lower() == b"dkim-signature")):
        d = dkim.DKIM(message)
        try:
            value, why = ("pass", "") if d.verify(idx=i, dnsfunc=txt) else ("fail", "it does not verify")
        except Unanswered as e:
            value, why = "temperror", str(e)
        except Exception as e:  # it fails on some signatures so
            value, why = "fail", repr(e)
        fields = {k.decode(): v.decode("utf-8", "replace") for k, v in (d.signature_fields or {}).items()}
        out.append({"value": value, "why": why, "domain": fields.get("d", ""), "selector": fields.get("s", "")})
    return out


def judge_arc(message):
    """cv as it is to be reported, and the oldest instance whose message signature verifies, 0 for all."""
    try:
        value, sets, why = dkim.arc_verify(message, dnsfunc=txt)
    except Exception as e:  # a chain that it cannot even begin with
        return {"value": "fail", "why": repr(e), "oldest": 0}
    oldest = 0
    if value == b"pass":
        for s in sorted(sets, key=lambda s: -s["instance"]):
            if not s["ams-valid"]:
                oldest = s["instance"] + 1
                break
    return {"value": "fail" if value is None else value.decode(), "why": str(why), "oldest": oldest}


def judge_iprev(ip):
    try:
        names = resolver.resolve(dns.reversename.from_address(ip), "PTR")
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return "permerror"
    except dns.exception.DNSException:
        return "temperror"
    family = "AAAA" if ":" in ip else "A"
    for name in names:
        try:
            if any(ipaddress.ip_address(a.address) == ipaddress.ip_address(ip)
                   for a in resolver.resolve(name.target, family)):
                return "pass"
        except dns.exception.DNSException:
            pass
    return "fail"


def judge(q):
    message = base64.b64decode(q.get("message", ""))
    ip, helo, sender = q["ip"], q["helo"], q["from"]
    value, why = spf.check2(i=ip, s=sender, h=helo)
    out = {"spf": {"value": value, "why": why}, "helo": {"value": "", "why": ""}}
    if sender:
        value, why = spf.check2(i=ip, s="", h=helo)
        out["helo"] = {"value": value, "why": why}
    out["dkim"], out["arc"], out["iprev"] = judge_dkim(message), judge_arc(message), judge_iprev(ip)
    return out


features = authres.FeatureContext(authres.dkim_b, authres.dmarc, authres.arc)


def read(q):
    """Finds the Authentication-Results fields of a message that authres can read, in their order."""
    fields = []
    for name, value in email.message_from_bytes(base64.b64decode(q["message"])).items():
        if name.strip().lower() != "authentication-results":
            continue
        try:
            r = features.parse("Authentication-Results: " + "".join(str(value).splitlines()))
        except (authres.AuthResError, AttributeError, RecursionError):  # it fails on some fields so
            continue
        fields.append({"id": r.authserv_id, "results": [{
            "method": x.method, "value": x.result, "reason": x.reason or "",
            "properties": {p.type + "." + p.name: p.value for p in x.properties},
        } for x in r.results if hasattr(x, "method")]})
    return {"fields": fields}


def teach(q):
    for selector, key in q["keys"].items():
        keys[selector] = key.encode()
    return {}


actions = {"keys": teach, "compose": compose, "judge": judge, "read": read}

for line in sys.stdin:
    q = json.loads(line)
    try:
        reply = actions[q["do"]](q)
    except Exception as e:
        reply = {"error": repr(e)}
    print(json.dumps(reply), flush=True)
