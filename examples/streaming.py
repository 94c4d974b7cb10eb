"""Streaming and sessions: replies as they grow, a memory that is saved, loaded and forked."""

import tempfile

from deltamem_agents.chat import ChatDeltaMem, ChatSession


def main() -> None:
    model = ChatDeltaMem(max_tokens=40)
    session = model.session()
    for said in ("My dog is called Rex.", "What is my dog called?"):
        print("you:  ", said)
        print("model: ", end="")
        for chunk in session.stream(said):
            print(chunk.content, end="", flush=True)
        print()
    print("memory:", session.memory)

    with tempfile.TemporaryDirectory() as folder:
        session.save(folder)
        again = ChatSession.load(model, folder)  # in another process, say
    branch = again.fork()
    branch.invoke("My cat is called Tom.")
    print("messages:", len(again.messages), "and in the branch:", len(branch.messages))
    print("the branch is another memory:", branch.memory != again.memory)


if __name__ == "__main__":
    main()
