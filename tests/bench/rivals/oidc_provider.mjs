// npm oidc-provider with its own in-memory store: refresh tokens of as many people as asked for, printed with the port, then served.
// With Debian's or PyPI's Node: node oidc_provider.mjs 32
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.RIVAL_MODULES}/`);
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);
const people = Number(process.argv[2]);
const provider = new Provider('http://127.0.0.1', {
  clients: [{
    client_id: 'app', token_endpoint_auth_method: 'none', redirect_uris: ['https://app.example/back'],
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
  }],
  scopes: ['openid', 'offline_access'],
  rotateRefreshToken: true,
  features: { devInteractions: { enabled: false } },
  findAccount: async (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
});
const client = await provider.Client.find('app');
const tokens = [];
for (let number = 0; number < people; number += 1) {
  const accountId = String(1001 + number);
  const grant = new provider.Grant({ accountId, clientId: 'app' });
  grant.addOIDCScope('openid offline_access');
  const grantId = await grant.save();
  const token = new provider.RefreshToken({
    accountId, client, grantId, gty: 'authorization_code', scope: 'openid offline_access', authTime: Math.floor(Date.now() / 1000),
    iiat: Math.floor(Date.now() / 1000), rotations: 0,
  });
  tokens.push(await token.save());
}
const server = provider.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ port: server.address().port, tokens }));
});
