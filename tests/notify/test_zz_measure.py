import asyncio
from tests.notify.test_telling import *  # noqa
async def test_latency(house, sql, bot_api):
    for n in range(3):
        await bind(house, f"-{n+1}")
    worker=house.worker(); working=asyncio.create_task(worker.run())
    await asyncio.sleep(1)
    for n in range(20):
        async with house.database.transaction() as session:
            outbox.write(session, PAID[0], str(n), version=1, shop_id=SHOP, data={"id": "1","amount": 1})
        await asyncio.sleep(1.5)
    await asyncio.sleep(2)
    worker.stop(); await working
    print(await sql.fetchrow("select count(*), percentile_cont(0.5) within group (order by extract(epoch from sent_at-e.created_at)) p50, percentile_cont(0.95) within group (order by extract(epoch from sent_at-e.created_at)) p95, max(extract(epoch from sent_at-e.created_at)) m from notify_message join event e on e.id=event_id where state='sent'"))
async def test_burst(house, sql, bot_api):
    for n in range(120):
        await bind(house, f"-{n+1}")
    worker=house.worker(); working=asyncio.create_task(worker.run())
    await asyncio.sleep(1)
    async with house.database.transaction() as session:
        outbox.write(session, PAID[0], "1", version=1, shop_id=SHOP, data={"id": "1","amount": 1})
    async def all_sent():
        return await sql.fetchval("select count(*)=120 from notify_message where state='sent'")
    from tests.waiting import until
    await until(all_sent, seconds=60)
    worker.stop(); await working
    calls=sorted(c["at"] for c in await bot_api.calls())
    print("120 chats in", calls[-1]-calls[0], "most in a second", max(sum(1 for x in calls if a<=x<a+1) for a in calls))
