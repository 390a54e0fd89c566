-- What people have chosen, and when they were seen. Times are milliseconds since 1970.
CREATE TABLE status_people (
    domain TEXT NOT NULL,
    alias TEXT NOT NULL,
    choice TEXT NOT NULL,
    choice_until BIGINT,
    note TEXT,
    note_until BIGINT,
    hides_last_seen BOOLEAN NOT NULL,
    last_seen BIGINT,
    PRIMARY KEY (domain, alias)
);
