"""From what pools yield to what the user asked for: order, failures, the bar."""
