"""Stripe: the operations that have a rule of their own; the rule's name is one of `rules.RULES`.

Stripe: what moves no money and mints no credential, so that it costs nothing.

One operation a line, as in Stripe's specification. Its name is derived from its address
(`routes.named`). What is in no table is denied.

Stripe: what may move money, or costs a fee, by an amount that nothing in the request bounds.

Denied as `unpriced` unless `[spendguard_stripe] prices` gives the operation a fixed price.
One operation a line, as in Stripe's specification; its name is derived from its address.
"""

from __future__ import annotations

#: (address, operation, rule). Addresses that do the same have one operation.
PRICED = (
    ("POST /v1/payment_intents", "payment_intents.create", "intents"),
    ("POST /v1/payment_intents/{id}", "payment_intents.update", "held"),
    ("POST /v1/payment_intents/{id}/confirm", "payment_intents.confirm", "held"),
    ("POST /v1/payment_intents/{id}/capture", "payment_intents.capture", "held"),
    (
        "POST /v1/payment_intents/{id}/increment_authorization",
        "payment_intents.increment_authorization",
        "held",
    ),
    (
        "POST /v1/payment_intents/{id}/apply_customer_balance",
        "payment_intents.apply_customer_balance",
        "held",
    ),
    ("POST /v1/payment_intents/{id}/verify_microdeposits", "payment_intents.verify_microdeposits", "held"),
    ("POST /v1/payment_intents/{id}/cancel", "payment_intents.cancel", "cancels"),
    ("POST /v1/charges", "charges.create", "charges"),
    ("POST /v1/charges/{id}/capture", "charges.capture", "held"),
    ("POST /v1/refunds", "refunds.create", "refunds"),
    ("POST /v1/charges/{id}/refunds", "refunds.create", "refunds"),
    ("POST /v1/charges/{id}/refund", "refunds.create", "refunds"),
    ("POST /v1/refunds/{id}/cancel", "refunds.cancel", "cancels"),
    ("POST /v1/transfers", "transfers.create", "transfers"),
    ("POST /v1/transfers/{id}/reversals", "transfers.reversals.create", "reversals"),
    ("POST /v1/payouts", "payouts.create", "payouts"),
    ("POST /v1/payouts/{id}/cancel", "payouts.cancel", "cancels"),
    ("POST /v1/payouts/{id}/reverse", "payouts.reverse", "cancels"),
    ("POST /v1/topups", "topups.create", "topups"),
    ("POST /v1/topups/{id}/cancel", "topups.cancel", "cancels"),
    ("POST /v1/customers", "customers.create", "customers"),
    ("POST /v1/customers/{id}", "customers.update", "customer_update"),
    ("POST /v1/customers/{id}/tax_ids", "customers.tax_ids.create", "tax_ids"),
    ("DELETE /v1/customers/{id}/tax_ids/{id}", "customers.tax_ids.delete", "tax_ids"),
    ("POST /v1/tax_ids", "tax_ids.create", "tax_ids"),
    ("DELETE /v1/tax_ids/{id}", "tax_ids.delete", "tax_ids"),
    ("POST /v1/customers/{id}/balance_transactions", "customers.balance_transactions.create", "credit"),
    ("POST /v1/application_fees/{id}/refunds", "application_fees.refunds.create", "fee_refunds"),
    ("POST /v1/credit_notes", "credit_notes.create", "credit_notes"),
    ("POST /v1/invoices", "invoices.create", "invoice"),
    ("POST /v1/invoices/{id}", "invoices.update", "invoice_update"),
    ("DELETE /v1/invoices/{id}", "invoices.delete", "invoice_delete"),
    ("POST /v1/invoices/{id}/finalize", "invoices.finalize", "invoice_due"),
    ("POST /v1/invoices/{id}/send", "invoices.send", "invoice_due"),
    ("POST /v1/invoices/{id}/pay", "invoices.pay", "invoice_due"),
    ("POST /v1/invoices/{id}/void", "invoices.void", "cancels"),
    ("POST /v1/invoices/{id}/add_lines", "invoices.add_lines", "invoice_lines"),
    ("POST /v1/invoices/{id}/update_lines", "invoices.update_lines", "invoice_lines"),
    ("POST /v1/invoices/{id}/remove_lines", "invoices.remove_lines", "invoice_lines"),
    ("POST /v1/invoices/{id}/lines/{id}", "invoices.lines.update", "invoice_lines"),
    ("POST /v1/invoiceitems", "invoiceitems.create", "items"),
    ("POST /v1/invoiceitems/{id}", "invoiceitems.update", "items"),
    ("DELETE /v1/invoiceitems/{id}", "invoiceitems.delete", "item_delete"),
    ("POST /v1/subscriptions", "subscriptions.create", "subscriptions"),
    ("POST /v1/customers/{id}/subscriptions", "subscriptions.create", "subscriptions"),
    ("POST /v1/subscriptions/{id}", "subscriptions.update", "subscription_update"),
    ("POST /v1/customers/{id}/subscriptions/{id}", "subscriptions.update", "subscription_update"),
    ("DELETE /v1/subscriptions/{id}", "subscriptions.cancel", "endings"),
    ("DELETE /v1/customers/{id}/subscriptions/{id}", "subscriptions.cancel", "endings"),
    ("POST /v1/subscriptions/{id}/pause", "subscriptions.pause", "endings"),
    ("POST /v1/subscription_items", "subscription_items.create", "subscription_items"),
    ("POST /v1/subscription_items/{id}", "subscription_items.update", "subscription_items"),
    ("DELETE /v1/subscription_items/{id}", "subscription_items.delete", "subscription_item_delete"),
    ("POST /v1/subscription_schedules", "subscription_schedules.create", "schedules"),
    ("POST /v1/subscription_schedules/{id}/cancel", "subscription_schedules.cancel", "endings"),
    ("POST /v1/quotes/{id}/accept", "quotes.accept", "quotes"),
    ("POST /v1/checkout/sessions", "checkout.sessions.create", "sessions"),
    ("POST /v1/checkout/sessions/{id}", "checkout.sessions.update", "session_update"),
    ("POST /v1/checkout/sessions/{id}/expire", "checkout.sessions.expire", "cancels"),
    ("POST /v1/payment_links/{id}", "payment_links.update", "link_update"),
)


FREE = """
POST /v1/apple_pay/domains
DELETE /v1/apple_pay/domains/{id}
POST /v1/application_fees/{id}/refunds/{id}
POST /v1/billing/alerts
POST /v1/billing/alerts/{id}/activate
POST /v1/billing/alerts/{id}/archive
POST /v1/billing/alerts/{id}/deactivate
POST /v1/billing/credit_grants/{id}
POST /v1/billing/feedback_options
POST /v1/billing/feedback_options/{id}
POST /v1/billing/feedback_options/{id}/deactivate
POST /v1/billing/meters
POST /v1/billing/meters/{id}
POST /v1/billing/meters/{id}/deactivate
POST /v1/charges/{id}
POST /v1/charges/{id}/refunds/{id}
POST /v1/climate/orders/{id}
POST /v1/climate/orders/{id}/cancel
POST /v1/coupons
DELETE /v1/coupons/{id}
POST /v1/coupons/{id}
POST /v1/credit_notes/{id}
DELETE /v1/customers/{id}
POST /v1/customers/{id}/balance_transactions/{id}
POST /v1/customers/{id}/bank_accounts
DELETE /v1/customers/{id}/bank_accounts/{id}
POST /v1/customers/{id}/bank_accounts/{id}
POST /v1/customers/{id}/bank_accounts/{id}/verify
POST /v1/customers/{id}/cards
DELETE /v1/customers/{id}/cards/{id}
POST /v1/customers/{id}/cards/{id}
POST /v1/customers/{id}/funding_instructions
POST /v1/customers/{id}/sources
DELETE /v1/customers/{id}/sources/{id}
POST /v1/customers/{id}/sources/{id}
POST /v1/customers/{id}/sources/{id}/verify
POST /v1/entitlements/features
POST /v1/entitlements/features/{id}
POST /v1/file_links
POST /v1/file_links/{id}
POST /v1/files
POST /v1/financial_connections/accounts/{id}/disconnect
POST /v1/financial_connections/accounts/{id}/unsubscribe
POST /v1/identity/verification_sessions/{id}
POST /v1/identity/verification_sessions/{id}/cancel
POST /v1/identity/verification_sessions/{id}/redact
POST /v1/invoice_rendering_templates/{id}/archive
POST /v1/invoice_rendering_templates/{id}/unarchive
POST /v1/invoices/create_preview
POST /v1/invoices/{id}/attach_payment
POST /v1/invoices/{id}/mark_uncollectible
POST /v1/payment_method_configurations
POST /v1/payment_method_configurations/{id}
POST /v1/payment_method_domains
POST /v1/payment_method_domains/{id}
POST /v1/payment_method_domains/{id}/validate
POST /v1/payment_methods
POST /v1/payment_methods/{id}
POST /v1/payment_methods/{id}/attach
POST /v1/payment_methods/{id}/detach
POST /v1/payouts/{id}
POST /v1/plans
DELETE /v1/plans/{id}
POST /v1/plans/{id}
POST /v1/prices
POST /v1/prices/{id}
POST /v1/product_catalog/trial_offers
POST /v1/product_catalog/trial_offers/{id}
POST /v1/products
DELETE /v1/products/{id}
POST /v1/products/{id}
POST /v1/products/{id}/features
DELETE /v1/products/{id}/features/{id}
POST /v1/promotion_codes
POST /v1/promotion_codes/{id}
POST /v1/quotes
POST /v1/quotes/{id}
POST /v1/quotes/{id}/cancel
POST /v1/quotes/{id}/finalize
POST /v1/radar/value_list_items
DELETE /v1/radar/value_list_items/{id}
POST /v1/radar/value_lists
DELETE /v1/radar/value_lists/{id}
POST /v1/radar/value_lists/{id}
POST /v1/refunds/{id}
POST /v1/reporting/report_runs
POST /v1/setup_intents
POST /v1/setup_intents/{id}
POST /v1/setup_intents/{id}/cancel
POST /v1/setup_intents/{id}/confirm
POST /v1/setup_intents/{id}/verify_microdeposits
POST /v1/shipping_rates
POST /v1/shipping_rates/{id}
POST /v1/sources
POST /v1/sources/{id}
POST /v1/sources/{id}/verify
POST /v1/tax/calculations
POST /v1/tax_rates
POST /v1/tax_rates/{id}
POST /v1/terminal/configurations
POST /v1/terminal/configurations/{id}
POST /v1/terminal/locations
DELETE /v1/terminal/locations/{id}
POST /v1/terminal/locations/{id}
POST /v1/terminal/readers
DELETE /v1/terminal/readers/{id}
POST /v1/terminal/readers/{id}
POST /v1/terminal/readers/{id}/cancel_action
POST /v1/terminal/readers/{id}/collect_inputs
POST /v1/terminal/readers/{id}/process_setup_intent
POST /v1/terminal/readers/{id}/set_reader_display
POST /v1/test_helpers/confirmation_tokens
POST /v1/test_helpers/test_clocks
DELETE /v1/test_helpers/test_clocks/{id}
POST /v1/tokens
POST /v1/topups/{id}
POST /v1/transfers/{id}
POST /v1/transfers/{id}/reversals/{id}
DELETE /v1/webhook_endpoints/{id}
DELETE /v2/core/event_destinations/{id}
"""


UNPRICED = """
POST /v1/accounts
DELETE /v1/accounts/{id}
POST /v1/accounts/{id}
POST /v1/accounts/{id}/capabilities/{id}
POST /v1/accounts/{id}/external_accounts
DELETE /v1/accounts/{id}/external_accounts/{id}
POST /v1/accounts/{id}/external_accounts/{id}
POST /v1/accounts/{id}/persons
DELETE /v1/accounts/{id}/persons/{id}
POST /v1/accounts/{id}/persons/{id}
POST /v1/accounts/{id}/reject
POST /v1/accounts/{id}/unreject
POST /v1/application_fees/{id}/refund
POST /v1/apps/installs
POST /v1/apps/installs/{id}
POST /v1/apps/installs/{id}/uninstall
POST /v1/balance_settings
POST /v1/billing/credit_grants
POST /v1/billing/credit_grants/{id}/expire
POST /v1/billing/credit_grants/{id}/void
POST /v1/billing/meter_event_adjustments
POST /v1/billing/meter_events
POST /v1/billing/meters/{id}/reactivate
POST /v1/billing_portal/configurations
POST /v1/billing_portal/configurations/{id}
POST /v1/charges/{id}/dispute
POST /v1/charges/{id}/dispute/close
POST /v1/climate/orders
POST /v1/credit_notes/{id}/void
POST /v1/customers/{id}/cash_balance
DELETE /v1/customers/{id}/discount
DELETE /v1/customers/{id}/subscriptions/{id}/discount
POST /v1/disputes/{id}
POST /v1/disputes/{id}/close
POST /v1/financial_connections/accounts/{id}/refresh
POST /v1/financial_connections/accounts/{id}/subscribe
POST /v1/financial_connections/sessions
POST /v1/forwarding/requests
POST /v1/identity/verification_sessions
POST /v1/issuing/authorizations/{id}
POST /v1/issuing/authorizations/{id}/approve
POST /v1/issuing/authorizations/{id}/decline
POST /v1/issuing/cardholders
POST /v1/issuing/cardholders/{id}
POST /v1/issuing/cards
POST /v1/issuing/cards/{id}
POST /v1/issuing/disputes
POST /v1/issuing/disputes/{id}
POST /v1/issuing/disputes/{id}/submit
POST /v1/issuing/personalization_designs
POST /v1/issuing/personalization_designs/{id}
POST /v1/issuing/tokens/{id}
POST /v1/issuing/transactions/{id}
POST /v1/payment_links
POST /v1/payment_records/report_payment
POST /v1/payment_records/{id}/report_payment_attempt
POST /v1/payment_records/{id}/report_payment_attempt_canceled
POST /v1/payment_records/{id}/report_payment_attempt_failed
POST /v1/payment_records/{id}/report_payment_attempt_guaranteed
POST /v1/payment_records/{id}/report_payment_attempt_informational
POST /v1/payment_records/{id}/report_refund
POST /v1/radar/payment_evaluations
POST /v1/reviews/{id}/approve
POST /v1/subscription_items/{id}/usage_records
POST /v1/subscription_schedules/{id}
POST /v1/subscription_schedules/{id}/release
DELETE /v1/subscriptions/{id}/discount
POST /v1/subscriptions/{id}/migrate
POST /v1/subscriptions/{id}/resume
POST /v1/tax/locations
POST /v1/tax/registrations
POST /v1/tax/registrations/{id}
POST /v1/tax/settings
POST /v1/tax/transactions/create_from_calculation
POST /v1/tax/transactions/create_reversal
DELETE /v1/terminal/configurations/{id}
POST /v1/terminal/readers/{id}/collect_payment_method
POST /v1/terminal/readers/{id}/confirm_payment_intent
POST /v1/terminal/readers/{id}/process_payment_intent
POST /v1/terminal/readers/{id}/refund_payment
POST /v1/test_helpers/customers/{id}/fund_cash_balance
POST /v1/test_helpers/issuing/authorizations
POST /v1/test_helpers/issuing/authorizations/{id}/capture
POST /v1/test_helpers/issuing/authorizations/{id}/expire
POST /v1/test_helpers/issuing/authorizations/{id}/finalize_amount
POST /v1/test_helpers/issuing/authorizations/{id}/fraud_challenges/respond
POST /v1/test_helpers/issuing/authorizations/{id}/increment
POST /v1/test_helpers/issuing/authorizations/{id}/reverse
POST /v1/test_helpers/issuing/cards/{id}/shipping/deliver
POST /v1/test_helpers/issuing/cards/{id}/shipping/fail
POST /v1/test_helpers/issuing/cards/{id}/shipping/return
POST /v1/test_helpers/issuing/cards/{id}/shipping/ship
POST /v1/test_helpers/issuing/cards/{id}/shipping/submit
POST /v1/test_helpers/issuing/personalization_designs/{id}/activate
POST /v1/test_helpers/issuing/personalization_designs/{id}/deactivate
POST /v1/test_helpers/issuing/personalization_designs/{id}/reject
POST /v1/test_helpers/issuing/transactions/create_force_capture
POST /v1/test_helpers/issuing/transactions/create_unlinked_refund
POST /v1/test_helpers/issuing/transactions/{id}/refund
POST /v1/test_helpers/refunds/{id}/expire
POST /v1/test_helpers/terminal/readers/{id}/present_payment_method
POST /v1/test_helpers/terminal/readers/{id}/succeed_input_collection
POST /v1/test_helpers/terminal/readers/{id}/timeout_input_collection
POST /v1/test_helpers/test_clocks/{id}/advance
POST /v1/test_helpers/treasury/inbound_transfers/{id}/fail
POST /v1/test_helpers/treasury/inbound_transfers/{id}/return
POST /v1/test_helpers/treasury/inbound_transfers/{id}/succeed
POST /v1/test_helpers/treasury/outbound_payments/{id}
POST /v1/test_helpers/treasury/outbound_payments/{id}/fail
POST /v1/test_helpers/treasury/outbound_payments/{id}/post
POST /v1/test_helpers/treasury/outbound_payments/{id}/return
POST /v1/test_helpers/treasury/outbound_transfers/{id}
POST /v1/test_helpers/treasury/outbound_transfers/{id}/fail
POST /v1/test_helpers/treasury/outbound_transfers/{id}/post
POST /v1/test_helpers/treasury/outbound_transfers/{id}/return
POST /v1/test_helpers/treasury/received_credits
POST /v1/test_helpers/treasury/received_debits
POST /v1/three_d_secure/authentications
POST /v1/three_d_secure/authentications/{id}/cancel
POST /v1/three_d_secure/authentications/{id}/submit
POST /v1/treasury/credit_reversals
POST /v1/treasury/debit_reversals
POST /v1/treasury/financial_accounts
POST /v1/treasury/financial_accounts/{id}
POST /v1/treasury/financial_accounts/{id}/close
POST /v1/treasury/financial_accounts/{id}/features
POST /v1/treasury/inbound_transfers
POST /v1/treasury/inbound_transfers/{id}/cancel
POST /v1/treasury/outbound_payments
POST /v1/treasury/outbound_payments/{id}/cancel
POST /v1/treasury/outbound_transfers
POST /v1/treasury/outbound_transfers/{id}/cancel
POST /v2/billing/meter_event_adjustments
POST /v2/billing/meter_event_stream
POST /v2/billing/meter_events
POST /v2/commerce/product_catalog/imports
POST /v2/core/accounts
POST /v2/core/accounts/{id}/persons
DELETE /v2/core/accounts/{id}/persons/{id}
POST /v2/core/accounts/{id}/persons/{id}
POST /v2/core/accounts/{id}
POST /v2/core/accounts/{id}/close
POST /v2/core/vault/gb_bank_accounts
POST /v2/core/vault/gb_bank_accounts/{id}/archive
POST /v2/core/vault/gb_bank_accounts/{id}/unarchive
POST /v2/core/vault/us_bank_accounts
POST /v2/core/vault/us_bank_accounts/{id}
POST /v2/core/vault/us_bank_accounts/{id}/archive
POST /v2/core/vault/us_bank_accounts/{id}/confirm_microdeposits
POST /v2/core/vault/us_bank_accounts/{id}/send_microdeposits
POST /v2/core/vault/us_bank_accounts/{id}/unarchive
POST /v2/money_management/financial_accounts/{id}
POST /v2/money_management/financial_addresses
POST /v2/money_management/inbound_transfers
POST /v2/money_management/outbound_payments
POST /v2/money_management/outbound_payments/{id}/cancel
POST /v2/money_management/outbound_setup_intents
POST /v2/money_management/outbound_setup_intents/{id}
POST /v2/money_management/outbound_setup_intents/{id}/cancel
POST /v2/money_management/payout_intents
POST /v2/money_management/payout_intents/{id}
POST /v2/money_management/payout_intents/{id}/cancel
POST /v2/money_management/payout_intents/{id}/confirm
POST /v2/money_management/payout_intents/{id}/refresh_fx_quote
POST /v2/money_management/payout_intents/{id}/refresh_recipient_verification
POST /v2/money_management/payout_methods/{id}/archive
POST /v2/money_management/payout_methods/{id}/unarchive
POST /v2/money_management/recipient_verifications
POST /v2/money_management/recipient_verifications/{id}/acknowledge
POST /v2/money_management/test_helpers/financial_addresses/{id}/credit
POST /v2/money_management/transactions/{id}
POST /v2/money_management/transactions/{id}/refresh_regulatory_receipt
POST /v2/test_helpers/money_management/recipient_verifications
"""
