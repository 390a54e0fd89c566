-- What people have chosen, and when they were seen. Times are milliseconds since 1970, hides_last_seen is 0 or 1.
CREATE TABLE status_people (
    domain TEXT NOT NULL,
    alias TEXT NOT NULL,
    choice TEXT NOT NULL,
    choice_until BIGINT,
    note TEXT,
    note_until BIGINT,
    hides_last_seen BIGINT NOT NULL,
    last_seen BIGINT,
    PRIMARY KEY (domain, alias)
);
