-- Local accounts: people whom neither the switch nor a directory checks. Logins are in lower case; roles have blanks between them; times
-- are milliseconds since 1970; disabled is 0 or 1.
CREATE TABLE sso_accounts (
    domain TEXT NOT NULL,
    login TEXT NOT NULL,
    alias TEXT NOT NULL,
    name TEXT,
    email TEXT,
    password_hash TEXT NOT NULL,
    roles TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    created BIGINT NOT NULL,
    password_changed BIGINT NOT NULL,
    PRIMARY KEY (domain, login),
    UNIQUE (domain, alias)
);
