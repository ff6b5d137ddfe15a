"""Summaries for TensorBoard, and the files that hold them: without TensorFlow, whatever the backend."""

import itertools
import os
import socket
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from keras_adavit.files import explain_os_error, make_folder

NUMBERS = itertools.count()


class EventFile:
    """A file of summaries in a run's folder. It grows as they come; each is on disk when `write` returns.

    Args:
        folder: Folder of the run, made if it is missing.
        step: The first step that will be written: TensorBoard forgets what earlier files say of it and of later ones.

    Raises:
        InputError: From here and from `write`, if the file cannot be written.
    """

    def __init__(self, folder, step):
        make_folder(folder)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self.path = Path(folder) / name
        self.add(file_version="brain.Event:2")
        self.add(step=step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step, *summaries):
        """Writes summaries of a step."""
        merged = summary_pb2.Summary()
        for summary in summaries:
            merged.MergeFrom(summary)
        self.add(step=step, summary=merged)

    def add(self, **fields):
        """Writes an event. The file is open only here, so that a training may stop anywhere."""
        event = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
        with explain_os_error(self.path), self.path.open("ab") as file:
            RecordWriter(file).write(event)


def scalars(values):
    """Summaries of a dict of numbers by tag."""
    return [scalar_pb(tag, float(value)) for tag, value in values.items()]


def histogram(tag, values):
    """The summary of the distribution of an array."""
    return histogram_pb(tag, np.asarray(values, "float64"))


def image(tag, png):
    """The summary of a picture, the bytes of a PNG file."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    summary = summary_pb2.Summary()
    picture = summary_pb2.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    summary.value.add(tag=tag, image=picture)
    return summary


def custom_layout(categories):
    """The summary of a page of charts.

    Args:
        categories: Dict from a heading to a dict from a chart's title to the regular expressions of its tags; the first
            category is open.
    """
    layout = layout_pb2.Layout()
    for number, (heading, charts) in enumerate(categories.items()):
        category = layout.category.add(title=heading, closed=number > 0)
        for title, tags in charts.items():
            category.chart.add(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
    tensor = tensor_util.make_tensor_proto(layout.SerializeToString())
    summary = summary_pb2.Summary()
    summary.value.add(
        tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=custom_scalar.create_summary_metadata(), tensor=tensor
    )
    return summary


def hparams_start(hparams, metrics):
    """Summaries that begin a run with hyperparameters, and say which tags are its results.

    Args:
        hparams: Dict of bools, numbers and strings.
        metrics: Dict from the tag of a result to its name.
    """
    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(time_created_secs=time.time())
    for name, value in hparams.items():
        experiment.hparam_infos.add(name=name, type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
    for tag, name in metrics.items():
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag), display_name=name)
    config = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    return [hparams_summary(hparams_metadata.EXPERIMENT_TAG, config), hparams_pb(hparams)]


def hparams_end():
    """The summary that ends a run with hyperparameters."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return hparams_summary(
        hparams_metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
    )


def hparams_summary(tag, data):
    """A summary for the page of hyperparameters."""
    summary = summary_pb2.Summary()
    metadata = hparams_metadata.create_summary_metadata(data)
    summary.value.add(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)
    return summary
