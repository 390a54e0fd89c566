"""aioapns against push-sim. usage: aioapns_client.py JSON, where JSON says address, credentials and device tokens.

It prints what it was told of each push, as JSON."""

import asyncio
import json
import ssl
import sys

from aioapns import APNs, NotificationRequest, PushType
from aioapns import connection


async def main() -> None:
    given = json.loads(sys.argv[1])
    connection.APNsProductionClientProtocol.APNS_SERVER = given["host"]
    connection.APNsProductionClientProtocol.APNS_PORT = given["port"]
    context = ssl.create_default_context(cafile=given["ca_file"])
    if "certificate_file" in given:
        client = APNs(client_cert=given["certificate_file"], ssl_context=context, max_connections=1)
    else:
        client = APNs(
            key=given["p8"],
            key_id=given["key_id"],
            team_id=given["team_id"],
            topic=given["topic"],
            ssl_context=context,
            max_connections=1,
        )

    async def send(device: str) -> dict:
        request = NotificationRequest(
            device_token=device,
            message={"aps": {"alert": "hello"}, "from": "aioapns"},
            time_to_live=0,
            priority=10,
            collapse_key="call-1",
            push_type=PushType.ALERT,
        )
        result = await client.send_notification(request)
        return {
            "status": result.status,
            "reason": result.description,
            "timestamp": result.timestamp,
            "id": result.notification_id,
            "asked_id": request.notification_id,
        }

    results = [await send(device) for device in given["devices"]]
    bulk = await asyncio.gather(*(send(given["devices"][0]) for _ in range(given["bulk"])))
    print(json.dumps({"results": results, "bulk": [one["status"] for one in bulk]}))


asyncio.run(main())
