"""The routing of a shop: from memory, from the database, and an endpoint that does nothing."""

from load import HEADING, Sample, Target, run
from stage import make_key, stage

ROUNDS = 5
SECONDS = 1.5
PATH = "/api/payment/config?shop_id=121038"


def main() -> None:
    with stage() as here:
        settings = here.database("config")
        key = make_key(settings)
        targets = {
            "nothing": Target(here.start_bare(), "GET", "/nothing"),
            "config, from memory": Target(here.serve(settings), "GET", PATH, key),
            "config, from the database": Target(here.serve(settings, forgetful=True), "GET", PATH, key),
        }
        for target in targets.values():
            run(target, Sample(), clients=4, seconds=0.7)
        print(HEADING)
        for clients in (1, 16):
            samples = {name: Sample() for name in targets}
            for _ in range(ROUNDS):
                for name, target in targets.items():
                    run(target, samples[name], clients=clients, seconds=SECONDS)
            rate = samples["nothing"].rate
            for name, sample in samples.items():
                print(f"{sample.line(f'{name}, {clients} clients')}   {sample.rate / rate:.2f} of nothing")


if __name__ == "__main__":
    main()
