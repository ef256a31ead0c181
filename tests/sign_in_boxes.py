"""A customer whose sign-in is a file of cookies, which the shop gives anew with each visit."""

from __future__ import annotations

import os

import kibo

PROFILE = "/tmp/profile"


class Customer(kibo.Box):
    """Signs in where it is not signed in, and buys."""

    @kibo.action(effect="irreversible")
    def buy(self) -> str:
        """Buy a coffee, and return the receipt."""
        import http.cookiejar
        import urllib.error
        import urllib.request

        os.makedirs(PROFILE, exist_ok=True)
        jar = http.cookiejar.LWPCookieJar(f"{PROFILE}/cookies")
        if os.path.exists(jar.filename or ""):
            jar.load(ignore_discard=True)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        try:
            receipt = opener.open("http://shop.example/buy", b"coffee").read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            opener.open("http://shop.example/login", b"ada")
            receipt = opener.open("http://shop.example/buy", b"coffee").read().decode()
        jar.save(ignore_discard=True)
        return str(receipt)
