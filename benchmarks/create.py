"""A payment from end to end, beside a bare endpoint that makes the same call to the same stand-in."""

import json
from itertools import count, cycle

from load import HEADING, Sample, Target, run
from stage import make_key, shops, stage

ROUNDS = 3
SECONDS = 2.5


def main() -> None:
    with stage() as here:
        settings = here.database("create")
        key, service, bare = make_key(settings), here.serve(settings), here.start_bare()
        numbers, whose = count(), cycle(row.shop_id for row in shops())

        def body() -> str:
            number = next(numbers)
            payment = {"shop_id": next(whose), "amount": 100, "phone": "77000000100", "message": f"bench {number}"}
            return json.dumps(payment | {"order_id": f"bench-{number}"})

        targets = {
            "bare": Target(bare, "POST", "/bare", body=body, pid=here.pids[bare]),
            "create": Target(service, "POST", "/payments/kaspi/create", key, body, pid=here.pids[service]),
        }
        for target in targets.values():
            run(target, Sample(), clients=4, seconds=1)
        print(HEADING)
        for clients in (1, 16, 64):
            samples = {name: Sample() for name in targets}
            for _ in range(ROUNDS):
                for name, target in targets.items():
                    here.forget()
                    run(target, samples[name], clients=clients, seconds=SECONDS)
            for name, sample in samples.items():
                print(sample.line(f"{name}, {clients} clients"))
            print(f"  create / bare: {samples['create'].beside(samples['bare'])}")


if __name__ == "__main__":
    main()
