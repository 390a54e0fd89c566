"""What h2load says in the authorization field: usage: credentials.py apns TEAM KEY P8 | fcm ACCOUNT_FILE CA_FILE"""

import sys
import time

if sys.argv[1] == "apns":
    import jwt

    _, _, team, key, p8 = sys.argv
    print(jwt.encode({"iss": team, "iat": int(time.time())}, p8, "ES256", {"kid": key}))
else:
    import requests
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    session = requests.Session()
    session.trust_env = False  # or the machine's CA bundle wins over verify
    session.verify = sys.argv[3]
    scopes = ["https://www.googleapis.com/auth/firebase.messaging"]
    account = service_account.Credentials.from_service_account_file(sys.argv[2], scopes=scopes)
    account.refresh(Request(session))
    print(account.token)
