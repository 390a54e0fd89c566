// People in Chromium, by playwright-core. See README.md. usage: browser.mjs sign_in|second_factor|without_scripts|sessions
import assert from 'node:assert/strict';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { pathToFileURL } from 'node:url';

const { ISSUER, OTHER_ISSUER, LOGIN, PASSWORD, MODULES, CHROMIUM, SCREENSHOTS } = process.env;
const { default: playwright } = await import(pathToFileURL(`${MODULES}/playwright-core/index.js`));

const done = (what) => console.log(`ok: ${what}`);
const violations = [];

// Where the client lets people come back to.
const back = createServer((_, response) => response.end('<!doctype html><title>back</title><h1>You are back</h1>'));
back.listen(0, '127.0.0.1');
await once(back, 'listening');
const BACK = `http://127.0.0.1:${back.address().port}/back`;

const browser = await playwright.chromium.launch({
  executablePath: CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update'],
});

async function person(options = {}) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, locale: 'en-US', ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const note = (text) => /Content.Security.Policy|Refused to|blocked/i.test(text) && violations.push(text);
  page.on('console', (message) => note(message.text()));
  page.on('pageerror', (error) => violations.push(String(error)));
  page.on('requestfailed', (request) => violations.push(`${request.url()} ${request.failure()?.errorText}`));
  return page;
}

function request(changed = {}) {
  const verifier = randomBytes(32).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const asked = { client_id: 'app', redirect_uri: BACK, response_type: 'code', scope: 'openid', state: 'a state', nonce: 'a nonce' };
  const all = new URLSearchParams({ ...asked, code_challenge: challenge, code_challenge_method: 'S256', ...changed });
  return { url: `${ISSUER}/protocol/openid-connect/auth?${all}`, verifier };
}

async function tokens(page, verifier) {
  const answer = new URL(page.url()).searchParams;
  assert.equal(answer.get('state'), 'a state');
  assert.equal(answer.get('iss'), ISSUER);
  const fields = { grant_type: 'authorization_code', code: answer.get('code'), redirect_uri: BACK, client_id: 'app', code_verifier: verifier };
  const response = await fetch(`${ISSUER}/protocol/openid-connect/token`, { method: 'POST', body: new URLSearchParams(fields) });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

async function refresh(token) {
  const fields = { grant_type: 'refresh_token', refresh_token: token, client_id: 'app' };
  const response = await fetch(`${ISSUER}/protocol/openid-connect/token`, { method: 'POST', body: new URLSearchParams(fields) });
  return response.status;
}

async function signIn(page, login = LOGIN, password = PASSWORD) {
  await page.getByLabel('Number or login').fill(login);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

const heading = (page, name) => page.getByRole('heading', { name, level: 1 }).waitFor();
const alert = (page) => page.getByRole('alert').textContent();
const picture = (page, name) => page.screenshot({ path: `${SCREENSHOTS}/sso-${name}.png`, fullPage: true });

// A code of an authenticator app (RFC 6238), so many steps from now.
function code(secret, steps = 0) {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...secret.replaceAll(' ', '')].map((letter) => letters.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const digest = createHmac('sha1', key).update(counter).digest();
  const offset = digest[19] & 15;
  return String((digest.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

async function fits(page) {
  const [wide, view] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert(wide <= view, `the page is ${wide} wide in a window of ${view}`);
}

const scenarios = {
  async sign_in() {
    const page = await person({ locale: 'ru-RU' });
    const { url, verifier } = request();
    await page.goto(url);
    await heading(page, 'Вход');
    assert.equal(await page.locator('html').getAttribute('lang'), 'ru');
    await page.getByText('The App').waitFor();
    await picture(page, 'sign-in-ru');
    // With the keyboard alone: the login has the focus.
    await page.keyboard.type(LOGIN);
    await page.keyboard.press('Tab');
    await page.keyboard.type('wrong password');
    await page.keyboard.press('Enter');
    assert.equal(await alert(page), 'Неверный логин или пароль.');
    assert.equal(await page.getByLabel('Номер или логин').inputValue(), LOGIN);
    assert.equal(await page.getByLabel('Пароль').inputValue(), '');
    await picture(page, 'wrong-password-ru');
    done('a wrong password is said, the login stays');
    await page.getByRole('button', { name: 'English' }).click();
    await heading(page, 'Sign in');
    assert.equal(await page.locator('html').getAttribute('lang'), 'en');
    await picture(page, 'sign-in-en');
    done('the language is changed on the page');
    await signIn(page);
    await heading(page, 'You are back');
    const first = await tokens(page, verifier);
    assert(first.id_token && first.access_token);
    done('signed in and back at the client');
    const again = request();
    await page.goto(again.url);
    await heading(page, 'You are back');
    await tokens(page, again.verifier);
    done('who is signed in sees no page');
    const narrow = await person({ viewport: { width: 320, height: 640 }, colorScheme: 'dark' });
    await narrow.goto(request().url);
    await heading(narrow, 'Sign in');
    await fits(narrow);
    await picture(narrow, 'sign-in-narrow-dark');
    done('the page fits a small phone');
  },

  async second_factor() {
    const page = await person();
    await page.goto(`${ISSUER}/account`);
    await signIn(page);
    await heading(page, 'Account');
    await page.getByRole('button', { name: 'Turn on' }).click();
    await heading(page, 'Second factor');
    assert(await page.locator('svg').isVisible());
    const box = await page.locator('svg').boundingBox();
    assert(box.width > 100 && box.height > 100, JSON.stringify(box));
    const secret = await page.locator('code').textContent();
    await picture(page, 'second-factor');
    await page.getByLabel('Code').fill('000000');
    await page.getByRole('button', { name: 'Continue' }).click();
    assert.match(await alert(page), /wrong/);
    assert.equal(await page.locator('code').textContent(), secret, 'the secret stays');
    // One step early or late is forgiven: what comes of this must not depend on the second at which it runs.
    await page.getByLabel('Code').fill(code(secret));
    await page.getByRole('button', { name: 'Continue' }).click();
    await heading(page, 'Account');
    await page.getByText('On: signing in takes a code.').waitFor();
    await picture(page, 'account');
    done('an authenticator app is set up');

    const other = await person();
    const { url, verifier } = request();
    await other.goto(url);
    await signIn(other);
    await heading(other, 'Confirm that it is you');
    await picture(other, 'code');
    await other.getByLabel('Code').fill('123 45');
    await other.getByRole('button', { name: 'Continue' }).click();
    assert.match(await alert(other), /wrong/);
    const used = code(secret, 1);
    await other.getByLabel('Code').fill(used);
    await other.getByRole('button', { name: 'Continue' }).click();
    await heading(other, 'You are back');
    const claims = JSON.parse(Buffer.from((await tokens(other, verifier)).id_token.split('.')[1], 'base64url'));
    assert.deepEqual(claims.amr, ['pwd', 'otp', 'mfa']);
    done('signing in takes a code');

    const thief = await person();
    await thief.goto(request().url);
    await signIn(thief);
    await heading(thief, 'Confirm that it is you');
    await thief.getByLabel('Code').fill(used);
    await thief.getByRole('button', { name: 'Continue' }).click();
    assert.match(await alert(thief), /used before/);
    done('a code is good for once');

    const required = await person();
    await required.goto(`${OTHER_ISSUER}/account`);
    await signIn(required);
    await heading(required, 'Second factor');
    await required.getByLabel('Code').fill(code(await required.locator('code').textContent()));
    await required.getByRole('button', { name: 'Continue' }).click();
    await heading(required, 'Account');
    assert.equal(await required.getByRole('button', { name: 'Turn off' }).count(), 0);
    done('where it is required nobody comes in without');
  },

  async without_scripts() {
    const page = await person({ javaScriptEnabled: false });
    const { url, verifier } = request();
    await page.goto(url);
    assert.equal(await page.locator('script').count(), 0);
    await signIn(page, LOGIN, 'wrong password');
    await page.getByRole('alert').waitFor();
    await page.getByRole('button', { name: 'Русский' }).click();
    await heading(page, 'Вход');
    await page.getByRole('button', { name: 'English' }).click();
    await heading(page, 'Sign in');
    await signIn(page);
    await heading(page, 'You are back');
    await tokens(page, verifier);
    await page.goto(`${ISSUER}/account`);
    await heading(page, 'Account');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await heading(page, 'Sign in');
    done('everything works without scripts');
  },

  async sessions() {
    const [here, there] = [await person(), await person({ userAgent: 'An Old Phone/1.0' })];
    const kept = [];
    for (const page of [here, there]) {
      const { url, verifier } = request();
      await page.goto(url);
      await signIn(page);
      await heading(page, 'You are back');
      kept.push((await tokens(page, verifier)).refresh_token);
    }
    await here.goto(`${ISSUER}/account`);
    await heading(here, 'Account');
    const rows = here.locator('ul.sessions > li');
    assert.equal(await rows.count(), 2);
    const old = rows.filter({ hasText: 'An Old Phone/1.0' });
    assert.match(await old.textContent(), /The App/);
    assert.match(await rows.filter({ hasText: 'this browser' }).textContent(), /Chrome/);
    await picture(here, 'sessions');
    await old.getByRole('button', { name: 'End' }).click();
    await old.waitFor({ state: 'detached' });
    assert.equal(await rows.count(), 1);
    assert.equal(await refresh(kept[1]), 400, 'what the session gave out is good no more');
    assert.equal(await refresh(kept[0]), 200, 'the other session goes on');
    await there.goto(`${ISSUER}/account`);
    await heading(there, 'Sign in');
    done('a session is ended from another');
    await here.goto(`${ISSUER}/protocol/openid-connect/logout`);
    await heading(here, 'Do you want to sign out?');
    await here.getByRole('button', { name: 'Sign out' }).click();
    await heading(here, 'You are signed out');
    await picture(here, 'signed-out');
    await here.goto(`${ISSUER}/account`);
    await heading(here, 'Sign in');
    done('signed out');
  },
};

try {
  await scenarios[process.argv[2]]();
  assert.deepEqual(violations, []);
  done('nothing was blocked');
} finally {
  await browser.close();
  back.close();
}
