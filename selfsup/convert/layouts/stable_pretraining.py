"""stable-pretraining: Lightning checkpoints of its Module, with `backbone` and `projector`."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION
from selfsup.convert.vits import TIMM

LAYOUT = Layout(
    name="stable_pretraining",
    title="stable-pretraining (Lightning checkpoints)",
    encoders={
        "online": ("state_dict::backbone.", "state_dict::backbone.student."),
        "teacher": ("state_dict::backbone.teacher.",),
    },
    networks=(TORCHVISION, TIMM),
    heads=(SequentialHead(prefix="{holder}projector."),),
    dropped={
        r"backbone\.(\w+\.)?(fc|head)\.": "the classifier",
        r"callbacks_(modules|metrics)\.": "probes",
        r"projector\.(student|teacher)\.": "heads of student and teacher",
        r"(backbone|projector)\.(base|final)_ema_coefficient$": "the schedule of the average",
        r"predictor\.": "the predictor",
        r"queue\.": "the queue",
    },
)
