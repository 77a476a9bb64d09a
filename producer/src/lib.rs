//! Feeds a topic: replays recorded bars or simulates a market.
