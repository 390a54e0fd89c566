-- The event bus. Times are milliseconds since 1970; an id is a UUIDv7 without hyphens, so that ids sort as events were made.

-- Events on their way out, each with the copy of the server that looks after it.
CREATE TABLE bus_outbox (
    id TEXT PRIMARY KEY,
    copy TEXT NOT NULL,
    topic TEXT NOT NULL,
    domain TEXT NOT NULL,
    time BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX bus_outbox_copy ON bus_outbox (copy, id);

-- Copies of the server and until when they count as alive.
CREATE TABLE bus_copies (
    copy TEXT PRIMARY KEY,
    until BIGINT NOT NULL
);

-- Which queues there are and what they take: topics with spaces between.
CREATE TABLE bus_queues (
    queue TEXT PRIMARY KEY,
    topics TEXT NOT NULL
);

-- What a queue has handled.
CREATE TABLE bus_inbox (
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (queue, id)
);
CREATE INDEX bus_inbox_time ON bus_inbox (time);

-- Queues and dead letters where there is no RabbitMQ.
CREATE TABLE bus_queued (
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    topic TEXT NOT NULL,
    domain TEXT NOT NULL,
    time BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (queue, id)
);
CREATE TABLE bus_dead (
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    topic TEXT NOT NULL,
    domain TEXT NOT NULL,
    time BIGINT NOT NULL,
    body TEXT NOT NULL,
    died BIGINT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (queue, id)
);
