"""δ-mem beside a RAG that is already there: the router asks your own retriever or vector store.

Run: python examples/rag_beside.py
"""

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from deltamem_agents.router import HybridRouter

RUNBOOK = [
    Document(
        "The search service's port is 9200. Restart it on Sundays.",
        metadata={"source": "runbook.pdf", "page": 1},
    ),
    Document(
        "The login service's port is 9300. Its owner is Marta.",
        metadata={"source": "runbook.pdf", "page": 2},
    ),
    Document("Bread is baked at night.", id="bakery"),
]


class YourRetriever(BaseRetriever):
    """Stands for whatever you retrieve with today."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        words = set(query.lower().replace("?", "").replace("'s", "").split())
        return [d for d in RUNBOOK if words & set(d.page_content.lower().split())]


def main() -> dict[str, str]:
    router = HybridRouter(YourRetriever())  # in an agent: DeltaMemMiddleware(router=router)
    scope = router.store.branch("alice")
    answers: dict[str, str] = {}
    for question in (
        "What is the login service's port?",
        "What is the audit service's port?",
        "How was your day?",
    ):
        decision = router.probe(question, scope)
        if decision.route == "exact":
            answer = str(router.answer(decision))
        elif decision.route == "both":  # passages that may help: the model reads them
            answer = f"(the model, with {len(decision.facts)} passages at hand)"
        else:
            answer = "(the model, from its memory)"
        answers[question] = answer
        print(f"{question:40} {decision.route:8} {answer}")
    return answers


if __name__ == "__main__":
    main()
