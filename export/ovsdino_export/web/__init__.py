"""A page that segments photos in the browser, without a server; `page` writes it."""
