// A relying party by openid-client (https://github.com/panva/openid-client), through every flow of the SSO. See README.md.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { pathToFileURL } from 'node:url';

import { Person } from './person.mjs';

const { ISSUER, LOGIN, PASSWORD, SECRET, RECEIVER, MODULES } = process.env;
const module = (path) => import(pathToFileURL(`${MODULES}/${path}`));
const client = await module('openid-client/build/index.js');
const jose = await module('jose/dist/webapi/index.js');

const BACK = 'http://127.0.0.1:4711/back';
const BYE = 'http://127.0.0.1:4711/bye';
const ALL = 'openid profile email';
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

const done = (what) => console.log(`ok: ${what}`);
const refused = (promise, error) => assert.rejects(promise, (thrown) => thrown.error === error || assert.fail(`${thrown} ${thrown.error}`));

// A public client, as programs on people's devices are, and one with a secret and elliptic curves.
const app = await client.discovery(new URL(ISSUER), 'app', undefined, client.None());
const web = await client.discovery(
  new URL(ISSUER),
  'web',
  { client_secret: SECRET, id_token_signed_response_alg: 'ES256' },
  client.ClientSecretBasic(SECRET),
);
for (const party of [app, web]) client.enableNonRepudiationChecks(party);
const metadata = app.serverMetadata();
assert.equal(metadata.issuer, ISSUER);
assert(metadata.supportsPKCE());
done('discovery');

// From the authorization request to the tokens.
async function start(party, more = {}) {
  const verifier = client.randomPKCECodeVerifier();
  const [state, nonce] = [client.randomState(), client.randomNonce()];
  const challenge = await client.calculatePKCECodeChallenge(verifier);
  const asked = { redirect_uri: BACK, scope: ALL, state, nonce, code_challenge: challenge, code_challenge_method: 'S256', ...more };
  const checks = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true };
  return { url: client.buildAuthorizationUrl(party, asked).href, checks };
}

async function signIn(party, person, more = {}) {
  const { url, checks } = await start(party, more);
  const page = await person.signIn(url, LOGIN, PASSWORD);
  assert(page.away, `did not lead back: ${page.status} ${page.html}`);
  return { tokens: await client.authorizationCodeGrant(party, page.away, { ...checks, maxAge: more.max_age }), page, checks };
}

const person = new Person();
const first = await signIn(app, person);
const claims = first.tokens.claims();
assert.equal(claims.preferred_username, LOGIN);
assert.equal(claims.aud, 'app');
assert(first.tokens.expiresIn() > 0);
done('code with PKCE, ID token signed with RS256');

const info = await client.fetchUserInfo(app, first.tokens.access_token, claims.sub);
assert.equal(info.preferred_username, LOGIN);
await assert.rejects(client.fetchUserInfo(app, first.tokens.access_token, 'somebody else'));
done('userinfo');

// The code is used up, and what came of it is revoked with it.
await refused(client.authorizationCodeGrant(app, first.page.away, first.checks), 'invalid_grant');
await refused(client.refreshTokenGrant(app, first.tokens.refresh_token), 'invalid_grant');
done('a code is used once');

{
  const { url, checks } = await start(app);
  const page = await person.signIn(url, LOGIN, PASSWORD);
  const wrong = { ...checks, pkceCodeVerifier: client.randomPKCECodeVerifier() };
  await refused(client.authorizationCodeGrant(app, page.away, wrong), 'invalid_grant');
  await assert.rejects(client.authorizationCodeGrant(app, page.away, { ...checks, expectedState: 'another' }));
  done('a wrong verifier gets nothing');
}

{
  const silent = await start(app, { prompt: 'none' });
  const page = await person.open(silent.url);
  const tokens = await client.authorizationCodeGrant(app, page.away, silent.checks);
  assert.equal(tokens.claims().sub, claims.sub);
  const unknown = await start(app, { prompt: 'none' });
  const nobody = await new Person().open(unknown.url);
  await refused(client.authorizationCodeGrant(app, nobody.away, unknown.checks), 'login_required');
  done('without a page for who is signed in');
}

{
  const asked = await start(app, { max_age: '100' });
  const page = await person.open(asked.url);
  const tokens = await client.authorizationCodeGrant(app, page.away, { ...asked.checks, maxAge: 100 });
  assert(tokens.claims().auth_time * 1000 > Date.now() - 100_000);
  const again = await start(app, { prompt: 'login' });
  assert.equal((await person.open(again.url)).away, undefined);
  done('max_age and prompt=login');
}

{
  const other = new Person();
  const wrong = await other.signIn((await start(app)).url, LOGIN, 'wrong password');
  assert.equal(wrong.away, undefined);
  assert.equal(wrong.status, 422);
  done('a wrong password leads nowhere');
}

{
  const { tokens } = await signIn(app, person);
  const second = await client.refreshTokenGrant(app, tokens.refresh_token);
  assert.notEqual(second.refresh_token, tokens.refresh_token);
  assert.equal(second.claims().sub, claims.sub);
  const third = await client.refreshTokenGrant(app, second.refresh_token, { scope: 'openid' });
  assert.equal(third.scope, 'openid');
  done('refresh with rotation');
  await refused(client.refreshTokenGrant(app, second.refresh_token), 'invalid_grant');
  await refused(client.refreshTokenGrant(app, third.refresh_token), 'invalid_grant');
  done('reuse of a refresh token ends the grant');
}

// A client with a secret.
const confidential = await signIn(web, person);
assert.equal(confidential.tokens.claims().preferred_username, LOGIN);
assert.equal(jose.decodeProtectedHeader(confidential.tokens.id_token).alg, 'ES256');
done('a client with a secret, ID token signed with ES256');

{
  const bad = await client.discovery(new URL(ISSUER), 'web', undefined, client.ClientSecretPost('another secret'));
  const { url, checks } = await start(bad);
  const page = await person.open(url);
  const challenged = { code: 'OAUTH_WWW_AUTHENTICATE_CHALLENGE', status: 401 };
  await assert.rejects(client.authorizationCodeGrant(bad, page.away, checks), challenged);
  const post = await client.discovery(
    new URL(ISSUER),
    'web',
    { id_token_signed_response_alg: 'ES256' },
    client.ClientSecretPost(SECRET),
  );
  const asked = await start(post);
  await client.authorizationCodeGrant(post, (await person.open(asked.url)).away, asked.checks);
  done('a wrong secret is refused, a right one is taken in the body, too');
}

{
  const active = await client.tokenIntrospection(web, confidential.tokens.access_token);
  assert(active.active && active.sub === claims.sub, JSON.stringify(active));
  assert.deepEqual(await client.tokenIntrospection(web, 'no.such.token'), { active: false });
  done('introspection');
  const { tokens } = await signIn(web, person);
  await client.tokenRevocation(web, tokens.refresh_token, { token_type_hint: 'refresh_token' });
  await refused(client.refreshTokenGrant(web, tokens.refresh_token), 'invalid_grant');
  assert.equal((await client.tokenIntrospection(web, tokens.refresh_token)).active, false);
  await client.tokenRevocation(web, 'no.such.token');
  done('revocation');
}

// A device without a browser.
{
  const device = await client.initiateDeviceAuthorization(app, { scope: ALL });
  assert.match(device.user_code, /^[A-Z]{4}-[A-Z]{4}$/);
  await refused(client.genericGrantRequest(app, DEVICE, { device_code: device.device_code }), 'authorization_pending');
  const page = await person.open(device.verification_uri_complete);
  assert(page.html.includes(device.user_code), page.html);
  await person.send(page, { answer: 'yes' });
  const tokens = await client.pollDeviceAuthorizationGrant(app, device);
  assert.equal(tokens.claims().preferred_username, LOGIN);
  await client.refreshTokenGrant(app, tokens.refresh_token);
  // Too soon, or used: whichever of both is looked at first.
  await assert.rejects(
    client.genericGrantRequest(app, DEVICE, { device_code: device.device_code }),
    (thrown) => ['invalid_grant', 'slow_down'].includes(thrown.error),
  );
  done('device grant');
  const denied = await client.initiateDeviceAuthorization(app, { scope: ALL });
  const entered = await person.send(await person.open(denied.verification_uri), { user_code: denied.user_code.toLowerCase() });
  await person.send(entered, { answer: 'no' });
  await refused(client.genericGrantRequest(app, DEVICE, { device_code: denied.device_code }), 'access_denied');
  done('device grant that is denied');
}

// Signing out: by the client, and every other client of the session is told.
{
  const told = [];
  const receiver = createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += data));
    request.on('end', () => {
      told.push(new URLSearchParams(body).get('logout_token'));
      response.end();
      receiver.emit('told');
    });
  });
  receiver.listen(Number(RECEIVER), '127.0.0.1');
  await once(receiver, 'listening');
  const session = new Person();
  const here = await signIn(app, session);
  const there = await signIn(web, session);
  assert.equal(here.tokens.claims().sid, there.tokens.claims().sid);
  const heard = once(receiver, 'told');
  const leave = { post_logout_redirect_uri: BYE, id_token_hint: here.tokens.id_token, state: 'gone' };
  const page = await session.open(client.buildEndSessionUrl(app, leave).href);
  assert.equal(page.away?.href, `${BYE}?state=gone`, `${page.status} ${page.html}`);
  await refused(client.refreshTokenGrant(app, here.tokens.refresh_token), 'invalid_grant');
  await refused(client.refreshTokenGrant(web, there.tokens.refresh_token), 'invalid_grant');
  assert.equal((await client.tokenIntrospection(web, there.tokens.access_token)).active, false);
  assert.equal((await session.open((await start(app)).url)).away, undefined);
  done('signing out by the client');
  await heard;
  const keys = jose.createRemoteJWKSet(new URL(metadata.jwks_uri));
  const { payload } = await jose.jwtVerify(told[0], keys, { issuer: ISSUER, audience: 'web', typ: 'logout+jwt', maxTokenAge: 60 });
  assert.equal(payload.sid, there.tokens.claims().sid);
  assert.equal(payload.sub, there.tokens.claims().sub);
  assert.deepEqual(payload.events, { 'http://schemas.openid.net/event/backchannel-logout': {} });
  assert(payload.jti && payload.nonce === undefined);
  receiver.close();
  done('back-channel logout');
}
