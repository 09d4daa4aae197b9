"""The studio: a local page on which people look at data and runs, train, draw and edit. It only calls jobs.

``screens`` has one file for each screen; a file there with a ``SCREEN`` is a screen of the page.
"""
