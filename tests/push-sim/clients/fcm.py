"""Google's own library for access tokens against push-sim, then messages as the HTTP v1 reference writes them.

usage: fcm.py JSON, where JSON says the account's file, the authority's file, FCM's address and device tokens."""

import json
import sys

import requests
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import service_account

given = json.loads(sys.argv[1])
credentials = service_account.Credentials.from_service_account_file(
    given["account_file"], scopes=["https://www.googleapis.com/auth/firebase.messaging"]
)
plain = requests.Session()
plain.trust_env = False  # or the machine's CA bundle wins over verify
plain.verify = given["ca_file"]
credentials.refresh(Request(plain))
assert credentials.valid, "no access token"
session = AuthorizedSession(credentials, auth_request=Request(plain))
session.trust_env = False
session.verify = given["ca_file"]
results = []
for token in given["devices"]:
    message = {
        "token": token,
        "notification": {"title": "Call", "body": "from 1001"},
        "data": {"event": "ring", "call": "0123"},
        "android": {"priority": "high", "ttl": "30s", "collapse_key": "call-1"},
    }
    url = f"{given['fcm']}/v1/projects/{given['project']}/messages:send"
    answer = session.post(url, json={"message": message}, timeout=10)
    results.append({"status": answer.status_code, "body": answer.json()})
print(json.dumps({"results": results, "expires": credentials.expiry.isoformat()}))
