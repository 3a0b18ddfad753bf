"""Write a web page that segments photos in the browser, without a server."""
