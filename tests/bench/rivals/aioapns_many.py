"""aioapns sends many pushes. usage: aioapns_many.py JSON. Prints how many were taken, the seconds and the processor's seconds."""

import asyncio
import json
import ssl
import sys
import time

from aioapns import APNs, NotificationRequest, PushType, connection

AT_ONCE = 1000


async def main() -> None:
    given = json.loads(sys.argv[1])
    connection.APNsProductionClientProtocol.APNS_SERVER = given["host"]
    connection.APNsProductionClientProtocol.APNS_PORT = given["port"]
    client = APNs(
        key=given["p8"],
        key_id=given["key_id"],
        team_id=given["team_id"],
        topic=given["topic"],
        ssl_context=ssl.create_default_context(cadata=given["ca"]),
        max_connections=4,
    )
    taken = 0
    left = iter(range(given["pushes"]))

    async def send(number: int) -> None:
        nonlocal taken
        request = NotificationRequest(
            device_token=f"{number:064x}",
            message=given["payload"],
            time_to_live=3600,
            priority=5,
            push_type=PushType.ALERT,
        )
        result = await client.send_notification(request)
        taken += result.status == "200"

    async def worker() -> None:
        for number in left:
            await send(number)

    await send(0)
    taken = 0
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"taken": taken, "seconds": seconds, "cpu": spent}))


asyncio.run(main())
