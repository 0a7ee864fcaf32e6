"""HeteroFL (Diao, Ding, Tarokh, ICLR 2021).

Width: a device of rate r holds the leading ceil(r·n) units of every width axis (§3.1). The server takes the plain mean
over those who held a coordinate (§3.1, eq. 3-5), classifier rows only over devices that have the label. Devices train
with masked cross entropy, the Scaler and static batch norm (§3.3). Of texts the released code also averages rows of the
embedding only over devices that have the token; devices must say which these are, so it is off unless told otherwise.
"""

from __future__ import annotations

from models.algebra.plans import Plan, leading
from models.algebra.token_rows import counts_tokens
from models.errors import SettingError
from models.settings import Setting
from protocol import Objective
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.tiers.tier import Tier


class HeteroFL(FlowerStrategy):
    """Leading widths, unweighted mean by coordinate.

    Options: `label-rows` (True): mask absent labels in the loss and leave their classifier rows alone; `token-rows`
    (False): leave the embedding's rows of absent tokens alone.

    Equation: θⱼ ← Σ θₖⱼ / |Hⱼ| over the devices k in Hⱼ, who hold coordinate j: those whose leading ⌈rₖ·n⌉ units of
    every width axis have it, and of a classifier's row only those that have its class.

    Traps: a rate counts units, so a tier of 1/2 has about a quarter of the parameters. Without masked loss, static
    batch norm and Scaler, as others have often implemented it, it is another method.
    """

    OPTIONS = {
        "label-rows": Setting(True, "mask absent labels in the loss, and leave their classifier rows alone"),
        "token-rows": Setting(
            False,
            "of texts, average an embedding's row over the devices that have the token, as the released code does;"
            " **every device then says which tokens occur in its texts** ([privacy.md](privacy.md)). Not with `tied`",
        ),
    }
    PREFERENCES = Preferences(norm="static-batch", scaler=True)
    PER_WIDTH = True

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The leading part of the tier's rate."""
        del node
        return self.window(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """What the tier just trained."""
        return self.window(context, tier)

    def window(self, context: RoundContext, tier: Tier) -> Plan:
        """Which units a tier holds in a round."""
        del context
        return leading(tier.rate)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Masked cross entropy, or plain."""
        del context, tier
        return Objective("masked-cross-entropy" if self.options["label-rows"] else "cross-entropy")

    def needs_labels(self) -> bool:
        """The server has to know them to leave the other rows alone."""
        return bool(self.options["label-rows"])

    def needs_tokens(self) -> bool:
        """The server has to know these as well."""
        return bool(self.options["token-rows"])

    def check(self, context: RoundContext) -> None:
        """Rows of tokens want a network that has some, of tokens alone."""
        super().check(context)
        if not self.options["token-rows"]:
            return
        if not counts_tokens(context.layout):
            allowed = f"false for {context.network.name!r}, which has no embedding of tokens that is declared"
            raise SettingError("token-rows", True, allowed)
        if context.network.tied:
            raise SettingError("token-rows", True, "false with tied = true, where rows of tokens are classes as well")

    def rows(self, assignment: TrainAssignment) -> tuple[int, ...] | None:
        """Rows of the labels that the device has."""
        return assignment.node.hello.labels if self.options["label-rows"] else None

    def token_rows(self, assignment: TrainAssignment) -> tuple[int, ...] | None:
        """Those of the tokens that occur in the device's texts."""
        return assignment.node.hello.tokens if self.options["token-rows"] else None
