import pytest

import keras_adavit as ka


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": False}, "`key_gradient` needs gates of `tokens`. Received: key_gradient=True, tokens=False"),
        ({"attention_gradient": True}, "`key_gradient` must be False with `attention_gradient` or"),
        ({"mask_after_softmax": True}, "key_gradient=True, attention_gradient=False, mask_after_softmax=True"),
    ],
)
def test_a_gradient_through_keys_goes_with_no_other(options, message):
    with pytest.raises(ka.InputError) as caught:
        ka.GateConfig(key_gradient=True, **options)
    assert message in str(caught.value)
