//! Reconciles TradingPipelines.
