"""Calls in one session of agentbudget, which is asked before each and told after it, as its README shows."""

from agentbudget import AgentBudget, BudgetExhausted
from calling import CAP, charge, run

with AgentBudget(max_spend=f"${CAP}", max_repeated_calls=10**9).session() as session:

    def attempt() -> bool:
        """Ask, call, and tell."""
        if session.would_exceed(1.0):
            return False
        status = charge()
        try:
            session.track(status, cost=1.0, tool_name="charge")
        except BudgetExhausted:
            return False
        return status == 200

    run(attempt)
