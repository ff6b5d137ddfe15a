"""The one exception that means: what the user gave is wrong."""


class InputError(ValueError):
    """Wrong input: an argument, a recipe field, a folder or a file.

    The message is one sentence that names the argument or the file, says what was expected and what
    came. The commands print it and exit with code 2; anything else that is raised is a bug.

    ```python
    try:
        ka.GateConfig(temperature=0)
    except ka.InputError as error:
        print(error)  # `temperature` must be a positive number … Received: temperature=0
    ```
    """

    _keras_call_info_injected = True  # else Keras adds all arguments of the call to one raised inside a `call`


def printable(name):
    """A path, or a name out of a file, as a message can hold it: in one line, what is no text written out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(name))
