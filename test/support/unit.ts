/** `make unit` runs without servers: what needs one is skipped there, and runs in `make test`. */
export const isUnit = process.env.UNDERSTUDY_UNIT === '1';
