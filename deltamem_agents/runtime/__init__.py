"""Loading, templates, the window, replay and decoding: everything about running a model, no LangChain."""
