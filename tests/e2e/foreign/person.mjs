// Somebody who signs in by filling in the forms of the pages, with cookies and without scripts.
import assert from 'node:assert/strict';

const unescape = (text) => text.replaceAll('&#38;', '&').replaceAll('&amp;', '&').replaceAll('&#34;', '"').replaceAll('&#39;', "'");

export class Person {
  cookies = new Map();

  // Opens an address and follows redirections as long as they stay at the provider: the page, or where it leads outside.
  async open(url, init = {}) {
    const home = new URL(url).origin;
    for (let hop = 0; hop < 8; hop += 1) {
      const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
      const headers = { accept: 'text/html', 'accept-language': 'en', ...init.headers, ...(cookie && { cookie }) };
      const response = await fetch(url, { ...init, headers, redirect: 'manual' });
      for (const field of response.headers.getSetCookie()) {
        const [, name, value] = field.match(/^([^=]+)=([^;]*)/);
        if (/max-age=0/i.test(field)) this.cookies.delete(name);
        else this.cookies.set(name, value);
      }
      const location = response.headers.get('location');
      const html = await response.text();
      if (!location) return { url: new URL(url), status: response.status, html };
      url = new URL(location, url).href;
      if (new URL(url).origin !== home) return { away: new URL(url), status: response.status, html };
      init = {};
    }
    throw new Error('redirected for ever');
  }

  // Sends the form of a page.
  async send(page, fields) {
    const action = page.html?.match(/<form method="post" action="([^"]+)"/);
    const ticket = page.html?.match(/name="ticket" value="([^"]+)"/);
    assert(action && ticket, `no form: ${JSON.stringify(page)}`);
    const body = new URLSearchParams({ ticket: unescape(ticket[1]), ...fields });
    return this.open(new URL(unescape(action[1]), page.url).href, { method: 'POST', body });
  }

  // Signs in where a page asks for it, and goes where it leads.
  async signIn(url, username, password) {
    const page = await this.open(url);
    return page.away ? page : this.send(page, { username, password });
  }
}
