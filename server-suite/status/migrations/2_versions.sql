-- Copies of the server change people side by side: who changes a version that is not there any more reads again.
ALTER TABLE status_people ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
