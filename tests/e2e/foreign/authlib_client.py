"""A relying party by Authlib (https://authlib.org), through every flow of the SSO. See README.md."""

import os
import secrets
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url
from joserfc import jwk, jwt

from person import Person

ISSUER, LOGIN, PASSWORD, SECRET = (os.environ[name] for name in ("ISSUER", "LOGIN", "PASSWORD", "SECRET"))
BACK, BYE = "http://127.0.0.1:4711/back", "http://127.0.0.1:4711/bye"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


def done(what):
    print(f"ok: {what}", flush=True)


def refused(errors, call, *arguments, **named):
    try:
        answer = call(*arguments, **named)
    except OAuthError as thrown:
        assert thrown.error in errors.split(), thrown
        return
    raise AssertionError(f"not refused with {errors}: {answer}")


metadata = OpenIDProviderMetadata(requests.get(get_well_known_url(ISSUER, external=True), timeout=20).json())
metadata.validate()
assert metadata["issuer"] == ISSUER
keys = jwk.KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=20).json())
done("discovery")


def party(client, secret=None, method="none"):
    return OAuth2Session(
        client, secret, scope="openid profile email", redirect_uri=BACK, token_endpoint_auth_method=method, code_challenge_method="S256"
    )


def identity(client, token, nonce, algorithms):
    """The claims of an ID token, checked as OpenID Connect Core 1.0 says."""
    decoded = jwt.decode(token["id_token"], keys, algorithms=algorithms)
    assert decoded.header["alg"] in algorithms
    options = {"iss": {"essential": True, "value": ISSUER}, "aud": {"essential": True, "value": client}}
    known = {"nonce": nonce, "client_id": client, "access_token": token["access_token"]}
    claims = CodeIDToken(decoded.claims, decoded.header, options, known)
    claims.validate(leeway=5)
    return claims


def sign_in(session, person):
    verifier, nonce = generate_token(48), secrets.token_urlsafe()
    url, state = session.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce)
    page, away = person.sign_in(url, LOGIN, PASSWORD)
    assert away, page.text
    token = session.fetch_token(metadata["token_endpoint"], authorization_response=away, state=state, code_verifier=verifier)
    return token, nonce, away, verifier


person, app, web = Person(), party("app"), party("web", SECRET, "client_secret_basic")
token, nonce, away, verifier = sign_in(app, person)
claims = identity("app", token, nonce, ["RS256"])
assert claims["preferred_username"] == LOGIN, claims
done("code with PKCE, ID token signed with RS256")

info = app.get(metadata["userinfo_endpoint"], timeout=20).json()
assert (info["sub"], info["preferred_username"]) == (claims["sub"], LOGIN), info
done("userinfo")

refused("invalid_grant", app.fetch_token, metadata["token_endpoint"], authorization_response=away, code_verifier=verifier)
refused("invalid_grant", app.refresh_token, metadata["token_endpoint"], refresh_token=token["refresh_token"])
done("a code is used once")

first, nonce, _, _ = sign_in(app, person)
second = app.refresh_token(metadata["token_endpoint"], refresh_token=first["refresh_token"])
assert second["refresh_token"] != first["refresh_token"]
assert jwt.decode(second["id_token"], keys, algorithms=["RS256"]).claims["sub"] == claims["sub"]
done("refresh with rotation")
refused("invalid_grant", app.refresh_token, metadata["token_endpoint"], refresh_token=first["refresh_token"])
refused("invalid_grant", app.refresh_token, metadata["token_endpoint"], refresh_token=second["refresh_token"])
done("reuse of a refresh token ends the grant")

token, nonce, _, _ = sign_in(web, person)
assert identity("web", token, nonce, ["ES256"])["sub"] == claims["sub"]
done("a client with a secret, ID token signed with ES256")
answer = web.introspect_token(metadata["introspection_endpoint"], token["access_token"], "access_token").json()
assert answer["active"] and answer["sub"] == claims["sub"], answer
assert web.introspect_token(metadata["introspection_endpoint"], "no.such.token").json() == {"active": False}
done("introspection")
assert web.revoke_token(metadata["revocation_endpoint"], token["refresh_token"], "refresh_token").status_code == 200
refused("invalid_grant", web.refresh_token, metadata["token_endpoint"], refresh_token=token["refresh_token"])
done("revocation")
wrong = party("web", "another secret", "client_secret_post")
refused("invalid_client", sign_in, wrong, person)
sign_in(party("web", SECRET, "client_secret_post"), person)
done("a wrong secret is refused, a right one is taken in the body, too")



def device():
    asked = {"client_id": "app", "scope": "openid profile email"}
    device = requests.post(metadata["device_authorization_endpoint"], asked, timeout=20).json()
    assert device["interval"] > 0 and device["expires_in"] > 0, device
    return device, dict(grant_type=DEVICE, device_code=device["device_code"])


_, asking = device()
refused("authorization_pending", app.fetch_token, metadata["token_endpoint"], **asking)
refused("slow_down", app.fetch_token, metadata["token_endpoint"], **asking)
shown, asking = device()
page, _ = person.open(shown["verification_uri_complete"])
assert shown["user_code"] in page.text, page.text
person.send(page, answer="yes")
token = app.fetch_token(metadata["token_endpoint"], **asking)
assert identity("app", token, None, ["RS256"])["preferred_username"] == LOGIN
# Too soon, or used: whichever of both is looked at first.
refused("invalid_grant slow_down", app.fetch_token, metadata["token_endpoint"], **asking)
done("device grant")

told, heard = [], threading.Event()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told.append(parse_qs(body)["logout_token"][0])
        self.send_response(200)
        self.end_headers()
        heard.set()

    def log_message(self, *_):
        pass


receiver = HTTPServer(("127.0.0.1", int(os.environ["RECEIVER"])), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
session = Person()
here, nonce, _, _ = sign_in(app, session)
there, other, _, _ = sign_in(web, session)
of = identity("web", there, other, ["ES256"])
leave = requests.Request(
    url=metadata["end_session_endpoint"],
    params={"post_logout_redirect_uri": BYE, "id_token_hint": here["id_token"], "state": "gone"},
)
page, away = session.open(leave.prepare().url)
assert away == f"{BYE}?state=gone", page.text
refused("invalid_grant", app.refresh_token, metadata["token_endpoint"], refresh_token=here["refresh_token"])
refused("invalid_grant", web.refresh_token, metadata["token_endpoint"], refresh_token=there["refresh_token"])
done("signing out by the client")
assert heard.wait(20), "the client was not told"
decoded = jwt.decode(told[0], keys, algorithms=["ES256"])
assert decoded.header["typ"] == "logout+jwt", decoded.header
assert (decoded.claims["iss"], decoded.claims["aud"], decoded.claims["sid"]) == (ISSUER, "web", of["sid"]), decoded.claims
assert decoded.claims["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
assert "nonce" not in decoded.claims
receiver.shutdown()
done("back-channel logout")
