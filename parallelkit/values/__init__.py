"""What a call is made of; nothing here is changed once made."""
