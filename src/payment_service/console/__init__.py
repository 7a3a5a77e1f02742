"""The operators' console: pages for people, rendered on the server, at ``/console``.

It calls the services that the API calls, as the person who signed in, and holds no SQL. Everything works without
JavaScript; htmx adds the search while typing and a payment page that updates itself. Nothing of it is imported before
somebody opens a page.
"""
