"""The web page: tabs, decoding workers, request guard, logs. Only this package imports gradio."""
