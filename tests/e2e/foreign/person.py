"""Somebody who signs in by filling in the forms of the pages, with cookies and without scripts."""

import html
import re
from urllib.parse import urljoin, urlsplit

import requests


class Person:
    def __init__(self):
        self.session = requests.Session()
        self.session.headers.update({"Accept": "text/html", "Accept-Language": "en"})

    def open(self, url, data=None):
        """Follows redirections as long as they stay at the provider: the page, or where it leads outside."""
        home = urlsplit(url).netloc
        for _ in range(8):
            method = "GET" if data is None else "POST"
            page = self.session.request(method, url, data=data, allow_redirects=False, timeout=20)
            if "Location" not in page.headers:
                return page, None
            url, data = urljoin(url, page.headers["Location"]), None
            if urlsplit(url).netloc != home:
                return page, url
        raise AssertionError("redirected for ever")

    def send(self, page, **fields):
        action = re.search(r'<form method="post" action="([^"]+)"', page.text)
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        assert action and ticket, page.text
        fields["ticket"] = html.unescape(ticket[1])
        return self.open(urljoin(page.url, html.unescape(action[1])), fields)

    def sign_in(self, url, login, password):
        page, away = self.open(url)
        return (page, away) if away else self.send(page, username=login, password=password)
