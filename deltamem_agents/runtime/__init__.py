"""Running a model: loading, templates, the window, replay and decoding. No LangChain."""
