"""From arrays to matplotlib figures: what was kept, how much was used, what accuracy costs.

```python
pixels = keras.ops.clip(0.5 + 0.25 * images, 0, 1)  # as before they were normalised
figure = ka.visualize.kept_patches(pixels, model(images))  # shows itself in a notebook
ka.visualize.save(figure, "kept.png")  # or .svg, .pdf
```
"""

from keras_adavit.visualize.animation import animate, save_animation
from keras_adavit.visualize.curves import frontier, macs_histogram
from keras_adavit.visualize.figure import save
from keras_adavit.visualize.maps import head_usage, patch_usage, usage_by_block
from keras_adavit.visualize.patches import cover_skipped, kept_patches

__all__ = [
    "animate",
    "cover_skipped",
    "frontier",
    "head_usage",
    "kept_patches",
    "macs_histogram",
    "patch_usage",
    "save",
    "save_animation",
    "usage_by_block",
]
