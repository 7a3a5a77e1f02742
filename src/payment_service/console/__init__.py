"""The operators' console: pages for people, made on the server, at ``/console``.

It calls the services that the API calls, as the person who signed in, and holds no SQL. Everything works without
JavaScript; htmx adds the search as one types and a payment that changes while it is looked at. Nothing of it is
imported before somebody opens a page.
"""
