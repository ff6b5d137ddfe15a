"""What a client did wrong: a status and one sentence."""


class Refusal(Exception):
    """Wrong input of a client.

    Args:
        status: HTTP status.
        kind: One word for the metrics.
        sentence: What was expected and what came.
    """

    def __init__(self, status, kind, sentence):
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.sentence = sentence
