module guestbook/api

go 1.26
