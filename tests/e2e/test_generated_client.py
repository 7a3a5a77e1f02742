"""Types generated from docs/openapi.json, by a public generator, make a client that compiles, pays and refunds."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.documents import ROOT
from tests.support.rig import PAYS_AT_ONCE, Rig

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.thorough]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The types, as a module."""
    file = tmp_path_factory.mktemp("generated") / "payment_service_types.py"
    command = ["--input", str(ROOT / "docs" / "openapi.json"), "--input-file-type", "openapi", "--output", str(file)]
    command += ["--output-model-type", "pydantic_v2.BaseModel", "--target-python-version", "3.11"]
    command += ["--use-operation-id-as-name", "--extra-fields", "allow", "--formatters", "builtin"]
    subprocess.run([sys.executable, "-m", "datamodel_code_generator", *command], check=True, timeout=100)
    return load(file)


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


async def test_generated_types_pay_and_refund(generated: ModuleType, rig: Rig) -> None:
    order = rig.word()
    asked = generated.Create(shop_id=121038, amount=100, phone=PAYS_AT_ONCE, message=order, order_id=order)
    sent = asked.model_dump(mode="json", exclude_unset=True)
    key = {"Idempotency-Key": f"generated-{order.split()[-1]}"}
    answer = await rig.api.post("/payments/kaspi/create", json=sent, headers=key)
    payment = generated.PaymentAnswer.model_validate_json(answer.content)
    assert (payment.success, payment.state.value, payment.order_id) == (True, "pending", order)

    await rig.in_state(str(payment.id), "paid")
    answer = await rig.api.get(f"/payments/{payment.id}")
    details = generated.PaymentDetails.model_validate_json(answer.content)
    assert details.state.value == "paid"

    back = generated.RefundBody.model_validate({"shop_id": 121038, "external_id": payment.external_id, "amount": 40})
    answer = await rig.api.post("/payments/kaspi/refund", json=back.model_dump(mode="json", exclude_unset=True))
    refund = generated.RefundedAnswer.model_validate_json(answer.content)
    assert float(refund.remaining_amount) == 60

    [applied] = await rig.applied(order)
    assert applied["organization_bin"] == payment.organization_bin


async def test_generated_types_read_a_refusal_and_a_doubt(generated: ModuleType, rig: Rig) -> None:
    refused = await rig.create(phone="77015219062", message=rig.word())
    problem = generated.Problem.model_validate_json(refused.content)
    assert (problem.status, problem.code) == (422, "payment_rejected")
    doubtful = await rig.create(phone="77015219027", message=rig.word())
    unknown = generated.UnknownAnswer.model_validate_json(doubtful.content)
    assert doubtful.status_code == 202
    assert unknown.success is False
    assert "sent again" in unknown.detail
