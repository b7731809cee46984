"""What can be cut out of a network, and how: tracing, channel groups, surgery; loading models by name."""

from hwprune.network.inspection import inspection as inspection
from hwprune.network.loading import load_model as load_model
from hwprune.network.loading import load_weights as load_weights
from hwprune.network.masking import Masks as Masks
from hwprune.network.masking import masked as masked
from hwprune.network.network import Activation as Activation
from hwprune.network.network import ChannelGroup as ChannelGroup
from hwprune.network.network import Member as Member
from hwprune.network.network import Network as Network
from hwprune.network.network import StoredTensor as StoredTensor
from hwprune.network.surgery import cut as cut
from hwprune.network.tracing import trace as trace
from hwprune.network.verification import CutReport as CutReport
from hwprune.network.verification import verify_cut as verify_cut

__all__ = [
    "Activation",
    "ChannelGroup",
    "CutReport",
    "Masks",
    "Member",
    "Network",
    "StoredTensor",
    "cut",
    "inspection",
    "load_model",
    "load_weights",
    "masked",
    "trace",
    "verify_cut",
]
