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
        nothing, memory, database = here.start_bare(), here.serve(settings), here.serve(settings, forgetful=True)
        targets = {
            "nothing": Target(nothing, "GET", "/nothing", pid=here.pids[nothing]),
            "config, from memory": Target(memory, "GET", PATH, key, pid=here.pids[memory]),
            "config, from the database": Target(database, "GET", PATH, key, pid=here.pids[database]),
        }
        for target in targets.values():
            run(target, Sample(), clients=4, seconds=0.7)
        print(HEADING)
        for clients in (1, 16):
            samples = {name: Sample() for name in targets}
            for _ in range(ROUNDS):
                for name, target in targets.items():
                    run(target, samples[name], clients=clients, seconds=SECONDS)
            for name, sample in samples.items():
                print(sample.line(f"{name}, {clients} clients"))
            nothing_s, memory_s, database_s = samples.values()
            for name, one, other in (
                ("database / memory", database_s, memory_s),
                ("memory / nothing", memory_s, nothing_s),
            ):
                slower, dearer = one.percentile(50) / other.percentile(50), one.cpu_ms / (other.cpu_ms or 1)
                print(f"  {name}: {slower:.1f} times the median time, {dearer:.1f} times the cpu")


if __name__ == "__main__":
    main()
