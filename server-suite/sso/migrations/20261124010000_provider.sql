-- What the provider signs with. The private half is sealed with the secret of the configuration.
CREATE TABLE sso_keys (
    domain TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    number BIGINT NOT NULL,
    id TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    active_from BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (domain, algorithm, number)
);

-- Everybody who has signed in; `id` is the `sub` of their tokens.
CREATE TABLE sso_users (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    alias TEXT NOT NULL,
    name TEXT,
    email TEXT,
    roles TEXT NOT NULL,
    created BIGINT NOT NULL,
    checked BIGINT NOT NULL,
    UNIQUE (domain, alias)
);

-- Secrets of authenticator apps, sealed; `last_step` is the last code that was used.
CREATE TABLE sso_totp (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES sso_users (id) ON DELETE CASCADE,
    sealed BYTEA NOT NULL,
    last_step BIGINT NOT NULL,
    created BIGINT NOT NULL
);

-- Browsers and devices that are signed in. `secret` is the hash of what the cookie holds.
CREATE TABLE sso_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES sso_users (id) ON DELETE CASCADE,
    secret TEXT NOT NULL,
    methods TEXT NOT NULL,
    signed_in BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    ended BIGINT
);
CREATE INDEX sso_sessions_of_user ON sso_sessions (user_id);
CREATE INDEX sso_sessions_last_used ON sso_sessions (last_used);

-- What a client may do for a user in a session: one chain of refresh tokens. Only the token of `generation` is good.
CREATE TABLE sso_grants (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    client TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES sso_users (id) ON DELETE CASCADE,
    session_id TEXT NOT NULL REFERENCES sso_sessions (id) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    nonce TEXT,
    generation BIGINT NOT NULL,
    created BIGINT NOT NULL,
    revoked BIGINT
);
CREATE INDEX sso_grants_of_session ON sso_grants (session_id);

-- Authorization codes. One that was used stays until it would have ended, so that its second use is noticed.
CREATE TABLE sso_codes (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    client TEXT NOT NULL,
    session_id TEXT NOT NULL REFERENCES sso_sessions (id) ON DELETE CASCADE,
    redirect_uri TEXT NOT NULL,
    scope TEXT NOT NULL,
    nonce TEXT,
    challenge TEXT,
    expires BIGINT NOT NULL,
    grant_id TEXT
);
CREATE INDEX sso_codes_expires ON sso_codes (expires);

-- Devices that wait for somebody to enter their code elsewhere (RFC 8628).
CREATE TABLE sso_devices (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    client TEXT NOT NULL,
    user_code TEXT NOT NULL,
    scope TEXT NOT NULL,
    expires BIGINT NOT NULL,
    interval BIGINT NOT NULL,
    last_polled BIGINT NOT NULL,
    state TEXT NOT NULL,
    session_id TEXT,
    UNIQUE (domain, user_code)
);

-- Failed attempts by login and by address. Keys are hashes: people type passwords into the wrong field.
CREATE TABLE sso_failures (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    count BIGINT NOT NULL,
    last BIGINT NOT NULL,
    locked_until BIGINT NOT NULL,
    PRIMARY KEY (kind, key)
);

-- Clients that have still to be told that a session has ended.
CREATE TABLE sso_logouts (
    id TEXT NOT NULL PRIMARY KEY,
    domain TEXT NOT NULL,
    client TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next BIGINT NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX sso_logouts_next ON sso_logouts (next);
