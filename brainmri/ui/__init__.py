"""The page's parts; nothing outside knows them but `app.py`, and nothing else of the package imports gradio."""
