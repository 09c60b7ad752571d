"""Why the log cannot be written in another way right now, in sentences that say what to do."""

from typing import Final

MAY_BE_IN_THE_LOG: Final = (
    "{events} events are still to be published, and the exchange feeds the log until they are, so they could be in it "
    "twice. Start once more without rabbitmq.stream_url, until account-bridge status says that everything is sent and "
    "nothing is parked, and set it then"
)
OTHER_PARTITIONS: Final = (
    "{before} partitions of the log were written so far, now {wanted} are wanted (rabbitmq.log_partitions), and "
    "events still wait for one of the former. Start once more with {before}, until account-bridge status says "
    "that everything is sent"
)
NOT_YET_EVERYWHERE: Final = (
    "{events} events are not yet both published and in the log, and would be missing in it or be in it twice. "
    "Start once more with rabbitmq.stream_url set, until account-bridge status says that everything is sent and "
    "nothing is parked; remove it then"
)
