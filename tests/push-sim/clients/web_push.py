"""pywebpush against push-sim: encrypts for a subscription, signs for VAPID, sends.

usage: web_push.py JSON, where JSON has the subscription, the authority's file and the text."""

import json
import sys

import requests
from py_vapid import Vapid
from pywebpush import WebPushException, webpush

given = json.loads(sys.argv[1])
vapid = Vapid()
vapid.generate_keys()
session = requests.Session()
session.trust_env = False  # or the machine's CA bundle wins over verify
session.verify = given["ca_file"]
results = []
for subscription in given["subscriptions"]:
    try:
        answer = webpush(
            subscription,
            data=given["text"],
            vapid_private_key=vapid,
            vapid_claims={"sub": "mailto:operator@example.com"},
            ttl=30,
            headers={"Urgency": "high", "Topic": "call-1"},
            requests_session=session,
            timeout=10,
        )
        results.append({"status": answer.status_code, "location": answer.headers.get("location")})
    except WebPushException as refused:
        results.append({"status": refused.response.status_code, "body": refused.response.text})
print(json.dumps({"results": results}))
